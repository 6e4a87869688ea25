/**
 * Builds dist/ from src/: Dub's eight files and script.extras.js.
 *
 *     node build.mjs [folder]
 *
 * esbuild joins the modules and drops what a variant does not have; terser makes
 * the result small. Both are pinned, so that anybody builds the same bytes.
 */

import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';
import { minify } from 'terser';

const here = dirname(fileURLToPath(import.meta.url));
const out = argv[2] ?? join(here, 'dist');

/** Dub's extensions, in the order in which its file names list them. */
const EXTENSIONS = ['site-visit', 'outbound-domains', 'conversion-tracking'];

/** Optional chaining, which is in every browser since 2020, saves a tenth. */
const TARGET = 'es2020';

/** A second load of the script does nothing. The relay puts an array in. */
const script = code =>
  `self._dubAnalytics||(([DOMAIN,DAYS,ATTRIBUTION,PREFIX,FIXED])=>{${code}})(__DUB_RELAY_DEFAULTS__)`;

/** It is imported, so it is a module: nothing leaks out of it. */
const EXTRAS_ENTRY = `
  import { extras } from './extras.js';
  // A page of before the script told its options may still be in a cache.
  extras(
    _dubAnalytics.o ||
      document.querySelector('[data-consent],[data-gpc],[data-clean-url]').dataset,
  );
`;

async function bundle(contents, extensions) {
  const flag = name => [name.toUpperCase().replaceAll('-', '_'), `${extensions.includes(name)}`];
  const result = await build({
    stdin: { contents, resolveDir: join(here, 'src') },
    define: Object.fromEntries(EXTENSIONS.map(flag)),
    bundle: true,
    format: 'esm',
    minifySyntax: true,
    target: TARGET,
    write: false,
  });
  return result.outputFiles[0].text;
}

async function save(name, code) {
  const result = await minify(code, {
    ecma: 2020,
    compress: { passes: 4, unsafe: true, unsafe_arrows: true, keep_fargs: false },
    mangle: { toplevel: true },
    toplevel: true,
  });
  await writeFile(join(out, name), result.code);
}

await mkdir(out, { recursive: true });
for (let chosen = 0; chosen < 2 ** EXTENSIONS.length; chosen += 1) {
  const extensions = EXTENSIONS.filter((_, index) => chosen & (2 ** index));
  const code = await bundle("import './base.js';", extensions);
  await save(['script', ...extensions, 'js'].join('.'), script(code));
}
await save('script.extras.js', await bundle(EXTRAS_ENTRY, []));
