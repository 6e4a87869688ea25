// The relay beside a Next.js site: /_dub/ is passed on to it, the rest is yours.
// docs/recipes.md explains, RELAY_TRUSTED_PROXIES above all.

const relay = process.env.DUB_RELAY_URL ?? 'http://127.0.0.1:8080';

/** @type {import('next').NextConfig} */
const config = {
  async rewrites() {
    // Before your own pages and files are looked at. `:path*` is any number of
    // parts: `:path` would miss /_dub/track/lead/client.
    return {
      beforeFiles: [
        // For you alone: ask the relay's own port.
        {
          source: '/_dub/:internal(livez|readyz|metrics)',
          destination: '/404',
        },
        { source: '/_dub/:path*', destination: `${relay}/_dub/:path*` },
      ],
    };
  },
};

export default config;
