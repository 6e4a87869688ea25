/**
 * What a consent cookie says, as relay/core/http/consent.py reads it: a purpose and
 * beside it a word that says yes. What cannot be read as a yes is a no.
 */

const PURPOSES =
  'marketing|advertisement|advertising|ads|ad_storage|targeting|select_personalized_ads' +
  '|create_ads_profile|C0004|campaigns|"5|dub';

/** The cookies of platforms that are not named as the platform. */
const PLATFORMS = {
  cookiebot: 'CookieConsent',
  cookieyes: 'cookieyes-consent',
  onetrust: 'OptanonConsent',
  didomi: 'didomi_token',
  cookieconsent: 'cc_cookie',
  iubenda: '_iub_cs-[^=]*',
  complianz: 'cmplz_marketing',
  axeptio: 'axeptio_cookies',
  govuk: 'cookies_policy',
};

const YES = /^(true|1|y(es)?|on|all|allow(ed)?|accept(ed)?|grant(ed)?)$/i;

const decoded = value => {
  let text = value.replace(/^[" ]+|[" ]+$/g, '');
  try {
    for (let times = 0; times < 3 && /%[\da-f]{2}/i.test(text); times += 1)
      text = decodeURIComponent(text);
    if (/^eyJ/.test(text)) text = atob(text);
  } catch {}
  return text;
};

/** What "name", "name=value" or a platform says: true, false, or undefined without it. */
export const said = (asked, get) => {
  const [, first, equals, wanted] = asked.match(/([^=]*)(=?)(.*)/);
  const name = PLATFORMS[first] || first.replace(/[^\w-]/g, '\\$&');
  const held = get(name);
  if (held == null) return;
  const text = decoded(held);
  if (equals) return held == wanted || text == wanted;
  const words = [
    ...text.matchAll(
      RegExp(`(?:^|[^\\w-])(?:${PURPOSES})["']?\\s*[:=]\\s*["']?([\\w-]+)`, 'gi'),
    ),
  ];
  if (words[0]) return words.every(([, word]) => YES.test(word));
  const lists = [...text.matchAll(/"(?:categories|enabled|accepted(?:categories)?)"\s*:\s*\[([^\]]*)/gi)];
  return lists[0]
    ? lists.some(([, names]) => RegExp(`"(${PURPOSES})"`, 'i').test(names))
    : YES.test(text) || (text == -1 && /^Cookie/.test(name));
};
