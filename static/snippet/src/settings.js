/**
 * What the script tag says: every attribute of Dub's under its own name, with its
 * alias where it has one. DOMAIN, DAYS and ATTRIBUTION are the relay's own settings,
 * which it writes into the file when it starts.
 */

/**
 * The script's tag. A module has no currentScript, so it is looked for by the name
 * of its file; with `import()` there is none, and nothing is set.
 */
export const tag =
  document.currentScript ||
  document.querySelector('[type=module][src*="/script."]') ||
  new Image();

export const data = tag.dataset;

/**
 * JSON, or undefined with a warning; `coder` as in JSON.parse. Dub's own samples
 * write attributes in single quotes, which are taken too.
 */
export const json = (text, coder) => {
  try {
    return JSON.parse(/"/.test(text) ? text : text.replace(/'/g, '"'), coder);
  } catch {
    if (text) console.warn('JSON?', text);
  }
};

/** What data-consent or data-gpc say, if there is one: that is for the extras to tell. */
export const asked = data.consent ?? data.gpc;

export const api = data.apiHost || 'https://api.dub.co';

export const domains = { refer: data.shortDomain, ...json(data.domains) };

/** The parameters that may carry a partner's key; the first that has one counts. */
export const names = [data.queryParam || json(data.queryParams), 'via'].flat();

/**
 * A click id, or undefined if the text is none. Dub mints 16 letters and digits;
 * nothing in one can end a cookie's value.
 */
export const clickId = text => /^[\w-]{8,64}$/.exec(text || '')?.[0];
