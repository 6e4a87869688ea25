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
  httpOnly: 0,
};

/** The newest cookie of a name (browsers list it last), or undefined; in a sandbox there are none. */
export const get = name => {
  try {
    return document.cookie.match(`(.*; |^)${name}=([^;]*)`)?.[2];
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

/** Write it again without the Domain, if the browser did not take that (a public suffix). */
export const set = (name, value, more) => {
  write(name, value, more);
  if (get(name) != value) write(name, value, { ...more, domain: 0 });
};

/** Remove a cookie: a browser keeps those of each Domain, and of none, apart. */
export const remove = name =>
  [0, attributes.domain, ...location.hostname.split('.').map((_, at, labels) => labels.slice(at).join('.'))].map(
    domain => write(name, '', { 'max-age': -1, domain }),
  );
