/**
 * Carries the click to the site's other domains: on links, areas, frames and GET
 * forms, as they appear, as they change, and once more when they are used.
 */

import { domains } from './settings.js';

const KINDS = 'a,area,iframe,form';

const bare = host => host.replace(/^www\./, '');

const begin = click => {
  const own = bare(location.hostname);
  const listed = `${domains.outbound}`.split(/[\s,]+/).map(bare);

  /** The ids that were put on links here: what the page wrote itself is left alone. */
  const ours = new Set();
  let id;

  /** The address in an attribute, if it is one of the listed hosts'. */
  const outbound = (element, name) => {
    const url = new URL(element.getAttribute(name), element.baseURI);
    const host = bare(url.hostname);
    return (
      host &&
      host != own &&
      listed.some(name => (name[0] == '*' ? host.endsWith(name.slice(1)) : host == name)) &&
      url
    );
  };

  /** A GET form's own query replaces that of its address: so it becomes a field. */
  const fill = ({ target, formData }) => {
    if (id && target.method == 'get' && outbound(target, 'action'))
      formData.has('dub_id') || formData.set('dub_id', id);
  };

  const decorate = element => {
    try {
      // Throws for what is no element; so does what comes after without an address.
      if (!element.matches(KINDS)) return;
      element.addEventListener('formdata', fill);
      if (element.srcdoc) watch(element.contentDocument);
      const name = element.src ? 'src' : 'href';
      const url = outbound(element, name);
      const held = url.searchParams.get('dub_id');
      // A frame is not loaded anew for a newer click.
      if (held == id || (held && element.src) || (held != null && !ours.has(held))) return;
      // As text: searchParams would rewrite the rest of the query.
      url.search = url.search.replace(/[?&]dub_id=[^&]*/, '');
      if (id) url.search += (url.search ? '&' : '?') + 'dub_id=' + id;
      element.setAttribute(name, url);
    } catch {}
  };

  const scan = root => {
    decorate(root);
    root.querySelectorAll?.(KINDS).forEach(decorate);
  };

  const observer = new MutationObserver(records =>
    records.forEach(({ target, addedNodes }) => {
      decorate(target);
      addedNodes.forEach(scan);
    }),
  );

  const watch = root => {
    observer.observe(root, {
      subtree: true,
      childList: true,
      attributeFilter: ['href', 'src'],
    });
    scan(root);
  };

  // The path leads through shadow roots. A frame's srcdoc is there once it has loaded.
  for (const type of ['pointerdown', 'click', 'load'])
    document.addEventListener(type, event => event.composedPath().forEach(decorate), true);

  const refresh = () => {
    ours.add((id = click() || null));
    watch(document);
  };
  // A page that is gone back to was kept as it was, with its click of then.
  addEventListener('pageshow', refresh);
  return refresh;
};

/** Make what decorates everything with the click, which `click` gives, as it is now. */
export const decorator = click => (domains.outbound ? begin(click) : () => {});
