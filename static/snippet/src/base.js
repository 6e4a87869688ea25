/** What the page sees, and when to look. */

/* global PREFIX */

import { allowed, busy, consent, emit, known, look, track, tracked, value } from './click.js';
import { conversions } from './conversion-tracking.js';
import { get, set } from './cookies.js';
import { api, asked, data, domains, tag } from './settings.js';

const methods = {
  consent,
  ready: async callback => {
    if (allowed) await busy;
    await tracked;
    callback(known);
  },
  trackClick: input => busy.then(() => allowed && track(input)),
  ...(CONVERSION_TRACKING && conversions),
};

const dub = (method, ...args) => methods[method]?.(...args);

const queue = self.dubAnalytics?.q || [];
self.dubAnalytics = Object.assign(dub, self.dubAnalytics, methods, {
  q: { push: entry => dub(...entry) },
});

look();

self._dubAnalytics = {
  c: { get, set },
  qm: { queue },
  i: 'dub_id',
  h: location.hostname,
  a: api,
  d: domains.refer,
  v: value,
  n: domains,
  k: data.publishableKey,
  o: data,
};

// Beside this file; for one in a bundle, where the relay has it on this site.
(asked ?? data.cleanUrl) == null ||
  import((tag.src || PREFIX + '/').replace(/[^/]*$/, 'script.extras.js')).catch(
    console.warn,
  );

queue.map(entry => dub(...entry));
dub.ready(detail => emit('ready', detail));

['pushState', 'replaceState'].map(name => {
  const original = history[name];
  history[name] = (...args) => look(original.apply(history, args));
});
addEventListener('popstate', look);
self.navigation?.addEventListener('currententrychange', look);
