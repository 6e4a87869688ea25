/*
 * The click cookie, as Dub's own script keeps it: same name, same Domain rule,
 * same life, readable by the page. Served inside one function together with the
 * extensions of its variant; `defaults` comes from the relay's settings.
 */

const CLICK_COOKIE = 'dub_id';
const DAY_MS = 864e5;

const host = location.hostname;
const tag = document.currentScript;

/** A data- attribute of the script tag; null in a module, which has no tag. */
function attribute(name) {
  return tag ? tag.getAttribute('data-' + name) : null;
}

/** JSON from an attribute. Dub's docs show single quotes too, so they are read. */
function attributeJson(name) {
  const text = attribute(name);
  if (!text) return {};
  for (const candidate of [text, text.replace(/'/g, '"')]) {
    try {
      return JSON.parse(candidate) || {};
    } catch (error) {
      /* the next reading, or the warning below */
    }
  }
  console.warn('[dub] data-' + name + ' is not valid JSON and was ignored');
  return {};
}

/** What Dub mints, with room; keeps attributes out of the cookie string. */
function isClickId(value) {
  return /^[A-Za-z0-9_-]{8,64}$/.test(value);
}

/** The Domain the relay's server writes too: two forms would be two cookies. */
function cookieDomain() {
  const name = host.replace(/^www\./, '');
  const last = name.split('.').pop();
  const hostOnly =
    last === name || last === 'localhost' || /^(\d*|0x.*)$/.test(last) || /:/.test(name);
  return hostOnly ? '' : '.' + name;
}

/** Cookie attributes, Dub's defaults first, changed by data-cookie-options. */
function cookieAttributes() {
  const usual = { domain: defaults.domain || cookieDomain(), path: '/', sameSite: 'Lax' };
  const options = Object.assign(usual, attributeJson('cookie-options'));
  const days = options.expiresInDays || defaults.days;
  let expires = new Date(options.expires || NaN);
  if (isNaN(expires)) expires = new Date(Date.now() + days * DAY_MS);
  return [
    options.domain && 'domain=' + options.domain,
    options.path && 'path=' + options.path,
    options.sameSite && 'SameSite=' + (options.sameSite === true ? 'Strict' : options.sameSite),
    'expires=' + expires.toUTCString(),
    options.maxAge && 'max-age=' + options.maxAge,
    options.secure && 'secure',
  ].filter(Boolean);
}

const cookies = {
  /** The value of the first cookie of a name, as the server reads it too. */
  get(name) {
    for (const pair of document.cookie.split(';')) {
      const at = pair.indexOf('=');
      if (at > 0 && pair.slice(0, at).trim() === name) return pair.slice(at + 1).trim();
    }
    return undefined;
  },

  set(name, value) {
    document.cookie = [name + '=' + value].concat(cookieAttributes()).join('; ');
  },
};

/**
 * Calls that the page made through Dub's stub before this script came, and
 * those that it makes now. A call waits until something handles its method.
 */
function createQueue(stub) {
  const handlers = {};
  let waiting = [];

  function take(entry) {
    const handler = handlers[entry[0]];
    if (!handler) return void waiting.push(entry);
    try {
      handler.apply(null, [].slice.call(entry, 1));
    } catch (error) {
      // The page's own mistake: shown as such, and the other calls go on.
      setTimeout(() => {
        throw error;
      });
    }
  }

  function api() {
    take(arguments);
  }

  const queued = (stub && stub.q) || [];
  // The stub's methods (trackClick and so on) call window.dubAnalytics, now this.
  Object.assign(api, stub, { q: undefined });
  queued.forEach(take);

  return {
    api,
    handle(method, handler) {
      handlers[method] = handler;
      const entries = waiting;
      waiting = [];
      entries.forEach(take);
    },
  };
}

/** Keeps the click that brought the visitor here. */
function keepClick() {
  const arrived = new URLSearchParams(location.search).getAll(CLICK_COOKIE).find(isClickId);
  if (!arrived) return;
  const model = attribute('attribution-model') || defaults.attribution;
  if (model === 'first-click' && isClickId(cookies.get(CLICK_COOKIE) || '')) return;
  cookies.set(CLICK_COOKIE, arrived);
}

const queue = createQueue(window.dubAnalytics);

window.dubAnalytics = queue.api;
window.DubAnalytics = { partner: null, discount: null };
window._dubAnalytics = { c: cookies, qm: queue, i: CLICK_COOKIE, h: host };

keepClick();
queue.handle('ready', (callback) => callback());
