/** Calls that outlive the page and a passing fault. */

/**
 * Post JSON; the JSON that came back, an error's too, or undefined if there was
 * none. Never rejects. Tried three times, half a second and a second apart; once
 * if `pause` is 2000 or more.
 */
export const post = async (url, body, pause = 500, key) => {
  for (; pause < 4e3; pause *= 2) {
    try {
      const answer = await fetch(url, {
        method: 'POST',
        keepalive: 1,
        headers: {
          'Content-Type': 'application/json',
          ...(CONVERSION_TRACKING && key && { Authorization: 'Bearer ' + key }),
        },
        body: JSON.stringify(body),
      });
      // From 429 on (and 5xx) another try may help.
      if (answer.status < 429) return answer.json().catch(() => {});
    } catch {}
    await new Promise(done => setTimeout(done, pause));
  }
};
