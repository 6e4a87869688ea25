/**
 * What the script tag says: every attribute of Dub's under its own name, with its
 * alias where it has one. DOMAIN, DAYS, ATTRIBUTION, PREFIX and FIXED are the relay's
 * own settings, which it writes into the file when it starts.
 */

/* global FIXED, PREFIX */

/**
 * The script's tag. A module has no currentScript, nor has what a tag manager or a
 * loader runs later, so it is looked for by its address. With `import()` there is no tag,
 * but an address, which is among what the page has loaded, or, once that list is full, in
 * a stack of calls (but for WebKit's, which leaves out the query); in a bundle there is
 * neither.
 */
export const tag =
  document.currentScript ||
  document.querySelector(`script[src*="${PREFIX}/script."]`) ||
  document.querySelector('[type=module][src*="/script."]') || {
    src:
      (JSON.stringify(performance.getEntriesByType('resource')) + Error().stack).match(
        `http[^\\s"]*${PREFIX}/script\\.[^\\s"]*?(?="|:\\d+:\\d)`,
      )?.[0] || '',
  };

/**
 * The options: those in the script's address, for a tag that loses its attributes on
 * the way, then the tag's; what the relay has fixed, no page changes.
 */
export const data = {
  ...Object.fromEntries(
    [...new URLSearchParams(tag.src.split('?')[1])].map(([name, value]) => [
      // As a dataset names an attribute.
      name.replace(/^data-|-(.)/g, (_, letter = '') => letter.toUpperCase()),
      value,
    ]),
  ),
  ...tag.dataset,
  ...FIXED,
};

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
 * A click id, or undefined if the text is none, as the server reads it
 * (relay/core/http/cookies.py): no placeholder that nobody filled in, and without what
 * mail programs put around an address. Nothing in one can end a cookie's value.
 */
export const clickId = text =>
  /^[ "]*(?!([-_0]+|(test)+|undefined|infinity|([a-z]*[_-])*(id|here|your|placeholder|x+)([_-][a-z]*)*)\W*$)([\w-]{8,64})\W*$/i.exec(
    text || '',
  )?.[6];
