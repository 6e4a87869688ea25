/** Calls that outlive the page and a passing fault. */

/** Dub's answer to a repeat of what it may have lost is none; the relay's is one. */
const counted = said => (said?.link !== null || said.relay ? said : undefined);

/**
 * Post JSON; the JSON that came back, an error's too, or undefined if there was
 * none, or a repeat that Dub has recorded nothing of. Never rejects. A try has six
 * seconds; there are three, half a second and a second apart, or only `once`.
 */
export const post = async (url, body, key, once) => {
  for (const pause of [0, 500, 1e3]) {
    // Not even for 0 ms before the first: the page may be about to go.
    if (pause) await new Promise(done => setTimeout(done, pause));
    try {
      const answer = await fetch(url, {
        method: 'POST',
        keepalive: 1,
        headers: {
          'Content-Type': 'application/json',
          ...(CONVERSION_TRACKING && key && { Authorization: 'Bearer ' + key }),
        },
        // Of the base's calls nothing waits that could not wait.
        ...(CONVERSION_TRACKING && { signal: AbortSignal.timeout?.(6e3) }),
        body: JSON.stringify(body),
      });
      // From 429 on (and 5xx) another try may help.
      if (answer.status < 429) {
        const said = answer.json().catch(() => {});
        return CONVERSION_TRACKING && pause ? said.then(counted) : said;
      }
    } catch {}
    if (CONVERSION_TRACKING && once) break;
  }
};
