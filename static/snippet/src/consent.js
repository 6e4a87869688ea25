/**
 * What a consent cookie says, as relay/core/http/consent.py reads it: a purpose and
 * beside it a word that says yes. What cannot be read as a yes is a no.
 */

const PURPOSES =
  'marketing|advertisement|advertising|ads|ad_?storage|targeting|select_personalized_ads' +
  '|create_ads_profile|C0004|campaigns|"5|dub';

/** The cookies of platforms that are not named as the platform. */
const PLATFORMS = {
  cookiebot: 'CookieConsent',
  cookieyes: 'cookieyes-consent',
  onetrust: 'OptanonConsent',
  didomi: 'didomi_token',
  cookieconsent: 'cc_cookie',
  iubenda: '_iub_cs-*',
  complianz: 'cmplz_marketing',
  axeptio: 'axeptio_cookies',
  govuk: 'cookies_policy',
  usercentrics: 'ucData',
  osano: 'osano_consentmanager',
  termly: 'TERMLY_API_CACHE',
};

const YES = /^(true|1|y(es)?|on|all|allow(ed)?|accept(ed)?|grant(ed)?)$/i;

const quoted = text => text.replace(/[^\w-]/g, '\\$&');

const decoded = value => {
  let text = value.replace(/^[" ]+|[" ]+$/g, '');
  for (const _ of '123')
    text = text.replace(/%([2-7][\da-f])/gi, (_, code) => String.fromCharCode('0x' + code));
  try {
    if (/^eyJ/.test(text)) text = atob(text);
  } catch {}
  // Didomi's legitimate interests: what nobody objected to, which is no consent.
  return text.replace(/"\w+_li"\s*:\s*\{[^}]*\}/g, '');
};

const all = (text, pattern) => [...text.matchAll(RegExp(pattern, 'gi'))].map(found => found[1]);

/**
 * What "name", "name=value" or "name:purpose" says, a platform's name will do: true,
 * false, or undefined without that cookie. Where there are several, all must say yes.
 */
export const said = asked => {
  const [, first, sign, wanted] = asked.match(/([^=:]*)(.?)(.*)/);
  const name = PLATFORMS[first] || first;
  const purposes = sign == ':' ? quoted(wanted) : PURPOSES;
  let cookies = '';
  try {
    cookies = document.cookie;
  } catch {}

  const yes = held => {
    const text = decoded(held);
    if (sign == '=') return held == wanted || text == wanted;
    const words = all(text, `(?:^|[^\\w-])(?:${purposes})["']?\\s*[:=]\\s*["']?([\\w-]+)`);
    if (words[0]) return words.every(word => YES.test(word));
    const lists = all(
      text,
      '"(?:categories|enabled|accepted(?:categories)?)"\\s*:\\s*\\[([^\\]]*)\\]',
    );
    return lists.length
      ? RegExp(`"(${purposes})"`, 'i').test(lists)
      : YES.test(text) || (text == -1 && name == PLATFORMS.cookiebot);
  };

  const held = [
    ...cookies.matchAll(`(?:^|; )${quoted(name).replace('\\*', '\\d+')}=([^;]*)`),
  ];
  return held[0] && held.every(([, value]) => yes(value));
};
