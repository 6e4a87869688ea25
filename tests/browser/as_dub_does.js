/*
 * Not Dub's script: a stand-in that does, for tests to compare with, what was
 * measured of Dub's, its faults included. Each function is one row of that list.
 */
(function () {
  const tag = document.currentScript;
  const attribute = name => tag.getAttribute('data-' + name);
  const host = location.hostname;
  const api = attribute('api-host') || 'https://api.dub.co';
  const query = new URLSearchParams(location.search);

  // Bad JSON ends the script; every option that is set is written as it stands.
  const options = Object.assign(
    {
      domain: host === 'localhost' ? '' : '.' + host.replace(/^www\./, ''),
      path: '/',
      sameSite: 'Lax',
      expires: new Date(Date.now() + 90 * 864e5).toUTCString(),
    },
    JSON.parse(attribute('cookie-options') || '{}'),
  );

  const cookie = {
    get: name => (document.cookie.split('; ').find(c => c.startsWith(name + '=')) || '').split('=')[1],
    set(name, value) {
      const set = Object.keys(options).filter(key => options[key]);
      document.cookie = name + '=' + value + set.map(key => '; ' + key + '=' + options[key]).join('');
    },
  };

  // Bad JSON turns the feature off, and nobody is told.
  let domains = {};
  try {
    domains = JSON.parse(attribute('domains') || '{}');
  } catch (error) {
    /* silent */
  }

  window.DubAnalytics = { partner: null, discount: null };
  const queue = (window.dubAnalytics && window.dubAnalytics.q) || [];

  // Without a stub there is no interface. It knows two methods, and gives nothing back.
  if (window.dubAnalytics) {
    window.dubAnalytics = (method, value) => method === 'ready' && value();
    window.dubAnalytics.q = queue;
    window.dubAnalytics.trackClick = value => void track(value);
    window.dubAnalytics.trackLead = value => void lead(value);
  }

  // One try, without keepalive; what fails is thrown at the page.
  function post(path, body) {
    const headers = { 'Content-Type': 'application/json' };
    return fetch(api + path, { method: 'POST', headers, body: JSON.stringify(body) });
  }

  function track(click) {
    const own = new URLSearchParams(location.search).get('dub_id');
    const body = { ...click, url: location.href, referrer: document.referrer };
    post('/track/click', body)
      .then(answer => answer.ok && answer.json())
      .then(answer => {
        // 0.0.32: another id in the address stays, and the partner is passed over.
        if (!answer || (own && own !== answer.clickId)) return;
        cookie.set('dub_id', answer.clickId);
        if (!answer.partner) return;
        const partner = {
          ...answer.partner,
          name: encodeURIComponent(answer.partner.name),
          image: encodeURIComponent(answer.partner.image),
        };
        cookie.set('dub_partner_data', JSON.stringify({ ...answer, partner }));
        Object.assign(window.DubAnalytics, { partner: answer.partner, discount: answer.discount });
        // Only now, and only for a partner's click.
        queue.filter(call => call[0] === 'ready').forEach(call => call[1]());
      });
  }

  // A lead does not wait for the click that is under way.
  function lead(input) {
    post('/track/lead/client', { clickId: cookie.get('dub_id') || '', ...input }).then(answer =>
      answer.json(),
    );
  }

  // Nothing is checked, and only the first address of a page is looked at.
  if (query.get('dub_id')) cookie.set('dub_id', query.get('dub_id'));
  if (query.get('via') && domains.refer) track({ domain: domains.refer, key: query.get('via') });
  queue.filter(call => call[0] === 'trackLead').forEach(call => lead(call[1]));

  // From the second page on, the partner's name is not decoded.
  const known = cookie.get('dub_partner_data');
  if (known) {
    try {
      Object.assign(window.DubAnalytics, JSON.parse(known));
    } catch (error) {
      /* the cookie was cut at a semicolon */
    }
  }

  // Each look passes over the links that it has decorated once, and those in drawings.
  const done = new Set();
  function decorate() {
    for (const link of document.querySelectorAll('a[href], iframe[src]')) {
      const name = link.src ? 'src' : 'href';
      if (done.has(link) || link instanceof SVGElement) continue;
      const url = new URL(link[name]);
      if (!(domains.outbound || []).includes(url.hostname)) continue;
      if (!cookie.get('dub_id') || url.searchParams.has('dub_id')) continue;
      url.searchParams.set('dub_id', cookie.get('dub_id'));
      link[name] = url;
      done.add(link);
    }
  }
  document.addEventListener('DOMContentLoaded', decorate);
  setInterval(decorate, 2000);
  addEventListener('popstate', decorate);
  for (const name of ['pushState', 'replaceState']) {
    const plain = history[name];
    history[name] = function () {
      plain.apply(this, arguments);
      decorate();
    };
  }
})();
