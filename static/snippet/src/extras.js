/**
 * What a page asks for by an attribute: data-consent and its sources, data-gpc,
 * data-clean-url. It speaks to the script through what every page sees, so it can
 * come later: until it knows, nothing is stored.
 */

import { said } from './consent.js';

/** An attribute is on when it is there, and off if it says "false". */
const on = value => value != null && value != 'false';

/** How often the sources are looked at, in ms: most have no event. */
const INTERVAL = 300;

export const extras = ({ consent, consentCookie, gpc, cleanUrl }) => {
  const { get } = _dubAnalytics.c;
  let tcf;
  let last;

  /** Google's Consent Mode. A default of "denied" is no refusal yet. */
  const google = () => {
    const [, kind, state] =
      (self.dataLayer || []).filter(entry => entry?.[2]?.ad_storage).pop() || [];
    if (state) return state.ad_storage == 'granted' || (kind == 'update' ? false : undefined);
  };

  /** IAB's TCF: purpose 1 is to store on the device. */
  const iab = () => {
    if (!tcf && (tcf = self.__tcfapi))
      tcf('addEventListener', 2, heard => {
        tcf = heard || tcf;
      });
    return tcf && (tcf.gdprApplies === false || tcf.purpose?.consents?.[1]);
  };

  /** True, false, or undefined: not known yet. */
  const verdict = () => {
    if (on(gpc) && navigator.globalPrivacyControl) return false;
    if (!on(consent)) return true;
    return consentCookie ? said(consentCookie, get) : (google() ?? iab());
  };

  const look = () => {
    const now = verdict();
    if (last != now) dubAnalytics('consent', (last = now) ? 'granted' : 'denied');
  };

  const clean = () => {
    const { href } = location;
    const without = href
      .replace(/([?&])((dub_id|via)=[^&#]*&?)+/g, '$1')
      .replace(/[?&](#|$)/g, '$1');
    if (get('dub_id') && without != href) history.replaceState(history.state, '', without);
  };

  if (consent != null || gpc != null) {
    look();
    setInterval(look, INTERVAL);
  }
  if (on(cleanUrl)) {
    dubAnalytics('ready', clean);
    // Once the landing is dealt with: the click's call names the whole address.
    document.addEventListener('dub:click', () => dubAnalytics('ready', clean));
  }
};
