/** Draws the plots of the overview; the rest of the dashboard needs no script. */
(() => {
  const box = document.getElementById('plots');
  if (!box || !self.uPlot) return;

  /** How often the plots are drawn anew, in ms: samples are a minute each. */
  const EVERY = 30_000;

  const NAMES = { call_ms: 'mean', oldest_s: 'oldest' };
  const TONES = {
    parked: '--warn', rejected: '--bad', failed: '--bad', unattributed: '--warn',
    landings: '--soft', held: '--soft', confirmed: '--good', plan: '--soft',
  };
  const DASHED = { plan: [6, 4] };

  const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  /** How a time is written, by the distance of two marks in seconds. */
  const clock = [
    [86400, '{MM}-{DD}', null, null, null, null, null, null, 1],
    [60, '{HH}:{mm}', null, null, null, null, null, null, 1],
    [1, '{HH}:{mm}:{ss}', null, null, null, null, null, null, 1],
  ];
  const drawn = new Map();
  let hours = 6;

  const draw = (place, data) => {
    const names = place.dataset.series.split(' ');
    const values = [data.at, ...names.map(name => data[name])];
    drawn.get(place)?.destroy();
    const axis = { stroke: style('--soft'), grid: { stroke: style('--line'), width: 1 }, ticks: { show: false } };
    drawn.set(
      place,
      new uPlot(
        {
          tzDate: seconds => uPlot.tzDate(new Date(seconds * 1000), 'Etc/UTC'),
          width: place.clientWidth,
          height: 150,
          cursor: { y: false },
          legend: { live: true },
          // The window that was asked for, also while little of it is known.
          scales: {
            x: { range: () => [Date.now() / 1000 - hours * 3600, Date.now() / 1000] },
            y: { range: (_, low, high) => [0, Math.max(high, 1)] },
          },
          axes: [{ ...axis, values: clock }, { ...axis, size: 46 }],
          series: [
            { value: '{YYYY}-{MM}-{DD} {HH}:{mm}' },
            ...names.map(name => ({
              label: NAMES[name] ?? name,
              stroke: style(TONES[name] ?? '--accent'),
              width: 1.5,
              dash: DASHED[name],
              points: { show: data.at.length < 3 },
            })),
          ],
        },
        values,
        place,
      ),
    );
  };

  const load = async () => {
    const answer = await fetch(`${box.dataset.from}?hours=${hours}`);
    if (!answer.ok) return;
    const data = await answer.json();
    document.getElementById('no-plots').hidden = data.at.length > 0;
    box.hidden = data.at.length === 0;
    if (data.at.length) box.querySelectorAll('.plot').forEach(place => draw(place, data));
  };
  const again = () => load().catch(console.warn);

  document.querySelector('.pick').hidden = false;
  for (const button of document.querySelectorAll('[data-hours]'))
    button.addEventListener('click', () => {
      hours = Number(button.dataset.hours);
      for (const other of document.querySelectorAll('[data-hours]'))
        other.setAttribute('aria-pressed', String(other === button));
      again();
    });
  again();
  setInterval(again, EVERY);
  addEventListener('resize', again);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', again);
})();
