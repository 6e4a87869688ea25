/** The cookies, as Dub's script and the relay's server write them. */

/* global DAYS, DOMAIN */

import { data, json } from './settings.js';

const options = { ...json(data.cookieOptions) };

/**
 * A cookie's attributes: Dub's, then those of data-cookie-options by their own
 * names. The Domain is the host without "www."; a single label, localhost and
 * an IP address have none. A browser would refuse an httpOnly cookie from here,
 * and passes over attributes that it does not know (`maxAge`, `expiresInDays`).
 */
const attributes = {
  domain:
    DOMAIN ||
    location.hostname.replace(/^(www\.)?/, '.').match(/.+\.(?!localhost)[^.]*\D$/),
  path: '/',
  sameSite: 'Lax',
  'max-age':
    options.maxAge ||
    Math.round((Date.parse(options.expires) - new Date()) / 1e3) ||
    86400 * (options.expiresInDays || DAYS),
  ...options,
  // For WebKitGTK one that it cannot read, as JSON has it, beats the max-age.
  expires: 0,
  httpOnly: 0,
};

/**
 * The newest cookie of a name, as `read` gives it, or undefined; in a sandbox there are
 * none. Browsers list them in the order of their making.
 */
export const get = (name, read = value => value) => {
  try {
    return [...document.cookie.matchAll(`(?:^|; )${name}=([^;]*)`)].reduce(
      (held, found) => read(found[1]) || held,
      undefined,
    );
  } catch {}
};

/** Write a cookie. True stands for SameSite=Strict; for Secure any value will do. */
const write = (name, value, more) => {
  for (const key in (more = { ...attributes, ...more }))
    if (more[key]) value += `;${key}=${more[key] === true ? 'Strict' : more[key]}`;
  try {
    document.cookie = name + '=' + value;
  } catch {}
};

/**
 * Write a cookie in place of all of its name; without the Domain, if the browser does
 * not take that (a public suffix).
 */
export const set = (name, value) => {
  remove(name);
  write(name, value);
  get(name) || write(name, value, { domain: 0 });
};

/** Whether a page of another site has this one in a frame: it takes no Lax cookie there. */
export const foreign = () => {
  if (self == top) return;
  set('dub_t', 1);
  const taken = get('dub_t');
  remove('dub_t');
  return !taken;
};

/** Remove a cookie: a browser keeps those of each Domain, and of none, apart. */
export const remove = name =>
  [0, attributes.domain, ...location.hostname.split('.').map((_, at, labels) => labels.slice(at).join('.'))].map(
    domain => write(name, '', { 'max-age': -1, domain }),
  );
