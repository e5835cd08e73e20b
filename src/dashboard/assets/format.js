// Numbers, durations and times as the viewer reads them: in their own language and time zone. Pure.

export const NONE = '–';

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const hundredths = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const compact = new Intl.NumberFormat(undefined, { notation: 'compact', maximumFractionDigits: 1 });

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const dayAndTime = new Intl.DateTimeFormat(undefined, {
  month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit',
});
const full = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'long' });
const date = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium' });

export function isKnown(value) {
  return typeof value === 'number' && Number.isFinite(value);
}

export function count(value) {
  return isKnown(value) ? whole.format(value) : NONE;
}

// Short, for the scale of a chart: 12K.
export function shortCount(value) {
  return isKnown(value) ? compact.format(value) : NONE;
}

export function rate(value) {
  if (!isKnown(value)) return NONE;
  return value < 100 ? tenths.format(value) : whole.format(value);
}

export function percent(ratio) {
  return isKnown(ratio) ? `${tenths.format(ratio * 100)} %` : NONE;
}

// The number and its unit apart, because a large figure shows the unit small.
export function durationParts(ms) {
  if (!isKnown(ms)) return [NONE, ''];
  if (ms > 0 && ms < 0.05) return [`< ${tenths.format(0.1)}`, 'ms'];
  if (ms < 9.95) return [tenths.format(ms), 'ms'];
  if (ms < 999.5) return [whole.format(ms), 'ms'];
  if (ms < 9995) return [hundredths.format(ms / 1000), 's'];
  if (ms < 60_000) return [tenths.format(ms / 1000), 's'];
  return [longDuration(ms / 1000), ''];
}

// For the scale of a chart: 6 s, not 6.00 s.
export function shortDuration(ms) {
  if (!isKnown(ms)) return NONE;
  return ms < 1000 ? `${tenths.format(ms)} ms` : ms < 60_000 ? `${tenths.format(ms / 1000)} s` : longDuration(ms / 1000);
}

export function duration(ms) {
  const [value, unit] = durationParts(ms);
  return unit ? `${value} ${unit}` : value;
}

// Two units at most: 2 min 5 s, 3 h 20 min, 5 d 2 h.
export function longDuration(secs) {
  if (!isKnown(secs)) return NONE;
  const total = Math.max(0, Math.round(secs));
  const units = [['d', 86_400], ['h', 3600], ['min', 60], ['s', 1]];
  const first = units.findIndex(([, size]) => total >= size);
  if (first === -1) return '0 s';
  const [unit, size] = units[first];
  const head = `${whole.format(Math.floor(total / size))} ${unit}`;
  const next = units[first + 1];
  const rest = next ? Math.floor((total % size) / next[1]) : 0;
  return rest > 0 ? `${head} ${rest} ${next[0]}` : head;
}

// One unit: it is read at a glance, and the exact time is a hover away.
export function ago(unixSecs, nowSecs) {
  if (!isKnown(unixSecs)) return NONE;
  const secs = Math.max(0, nowSecs - unixSecs);
  if (secs < 2) return 'just now';
  const size = [86_400, 3600, 60].find((unit) => secs >= unit) ?? 1;
  return `${longDuration(Math.floor(secs / size) * size)} ago`;
}

export function bytes(value) {
  if (!isKnown(value)) return NONE;
  if (value < 1024) return `${whole.format(value)} B`;
  const units = ['KiB', 'MiB', 'GiB', 'TiB'];
  let scaled = value / 1024;
  let unit = 0;
  while (scaled >= 1024 && unit < units.length - 1) {
    scaled /= 1024;
    unit += 1;
  }
  return `${tenths.format(scaled)} ${units[unit]}`;
}

export function timeOfDay(unixSecs) {
  return isKnown(unixSecs) ? clock.format(unixSecs * 1000) : NONE;
}

export function shortDateTime(unixMs) {
  return isKnown(unixMs) ? dayAndTime.format(unixMs) : NONE;
}

export function fullDateTime(unixMs) {
  return isKnown(unixMs) ? full.format(unixMs) : NONE;
}

export function shortDate(unixSecs) {
  return isKnown(unixSecs) ? date.format(unixSecs * 1000) : NONE;
}
