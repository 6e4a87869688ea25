/** The visitor's click: whether it may be kept, and what is known of it. */

/* global ATTRIBUTION */

import { foreign, get, remove, set } from './cookies.js';
import { decorator } from './outbound-domains.js';
import { post } from './post.js';
import { api, asked, clickId, data, domains, json, names, tag } from './settings.js';

/** What pages read: the partner and the discount. */
export const known = (self.DubAnalytics = { partner: null, discount: null });

const learn = ({ clickId: _, ...rest }) => Object.assign(known, rest);

/** Two fields are URI-encoded in the cookie, and only there: so does Dub's script. */
const coder = code => (name, value) =>
  value && /^(name|image)$/.test(name) ? code(value) : value;


export const recallPartner = () =>
  learn(json(get('dub_partner_data'), coder(decodeURIComponent)) || {});

export const emit = (name, detail) =>
  document.dispatchEvent(new CustomEvent('dub:' + name, { detail }));

/** Whether anything may be stored, read or sent. While that is not known, nothing may. */
export let allowed = asked == null;

/** The visitor's click id, or something falsy. */
export const click = () => allowed && get('dub_id', clickId);

const refresh = OUTBOUND_DOMAINS && decorator(click);

/** Store the click of an answer; give the answer back. */
export const keep = answer => {
  if (allowed && clickId(answer?.clickId)) {
    set('dub_id', answer.clickId);
    if (answer.partner) {
      // What ends a cookie's value for browsers, or for readers, is escaped as in JSON.
      set(
        'dub_partner_data',
        JSON.stringify(answer, coder(encodeURIComponent))
          .replace(/;/g, '\\u003b')
          .replace(/=/g, '\\u003d'),
      );
      learn(answer);
    }
    emit('click', answer);
    if (OUTBOUND_DOMAINS) refresh();
  }
  return answer;
};

/** The click that this page tracked: one a page. */
export let tracked;

export const track = input =>
  (tracked =
    tracked ||
    post(api + '/track/click', {
      domain: domains.refer,
      ...input,
      url: location.href,
      referrer: document.referrer,
    }).then(keep));

/**
 * Have the relay's server keep a click, restore it (undefined) or forget it (null):
 * only where this script is of the page's own origin (indexOf gives 0). It does not
 * know of the page's own cookie options, and would write another cookie beside this
 * one: then it only hears that there are some.
 */
const tell = id =>
  tag.src.indexOf(origin + '/') ||
  post(
    new URL('cookie', tag.src),
    data.cookieOptions ? { options: 1 } : { dub_id: id, model: data.attributionModel },
  );

/** The click id and the partner's key that an address brought last. */
let id;
export let value;
let handled;

/** Settles when the last landing is dealt with; the first waits for consent too. */
let begin;
export let busy = new Promise(done => (begin = done));

const land = async () => {
  // Nobody has come to this site by that: it must not count.
  if (foreign()) return;
  const key = domains.refer && value;
  const landed = id || key;
  if (landed && !((data.attributionModel || ATTRIBUTION) == 'first-click' && click())) {
    keep({ clickId: id });
    tracked = 0;
    if (key) await track({ key });
  }
  // The session's mark throws where nothing can be stored: then that is all.
  if (landed || !(click() || sessionStorage.dub_id))
    await tell(click(), (sessionStorage.dub_id = 1));
  if (SITE_VISIT && domains.site && !key && allowed && !click()) {
    const visit = {
      domain: domains.site,
      url: location.href,
      referrer: document.referrer,
    };
    keep(await post(api + '/track/visit', visit));
    await tell(click());
  }
  if (OUTBOUND_DOMAINS) refresh();
};

/** Look at the address: is it a landing? */
export const look = () => {
  // What is prepared may never be seen.
  if (document.prerendering)
    return document.addEventListener('prerenderingchange', look, { once: true });
  // Behind a hash router's path, and in what mail programs make of an address ("&amp;").
  const params = new URLSearchParams(location.href.replace(/[?#;]/g, '&'));
  const newId = params.getAll('dub_id').map(clickId).find(each => each);
  const newValue = names.map(name => params.get(name)).find(each => each);
  if (newId || newValue) {
    id = newId;
    value = newValue;
  }
  if (handled != (handled = allowed && id + '/' + value) && allowed) {
    recallPartner();
    begin((busy = land().catch(console.warn)));
  }
};

const forget = () => {
  remove('dub_id');
  remove('dub_partner_data');
  if (OUTBOUND_DOMAINS) refresh();
};

/** Told of a decision. The server hears of a refusal where there was something to keep. */
export const consent = async state => {
  const before = allowed ? busy : get('dub_id');
  allowed = state == 'granted';
  look();
  allowed || forget();
  // The server's answer to a call under way may still bring cookies.
  await before;
  allowed || (before && forget(tell(null)));
};
