// Tables of figures, with a row for each case and a column for each stack: as text, Markdown, JSON, and an image.

import { type MachineUse, mergeUse, noise, noiseOf } from './machine.ts';
import { median, type Spread, spreadOf } from './statistics.ts';

/** One case, with a figure for each stack. Lower is better unless the table says otherwise. */
export interface Row {
  readonly label: string;
  /** By stack. For a row in slices, the medians. */
  readonly figures: Readonly<Record<string, number>>;
  /** The spread of the slices, by stack. */
  readonly spreads?: Readonly<Record<string, Spread>>;
  /**
   * Ours / another stack, by its name: from the slices of each round, or with several starts from the medians of each.
   * Below 1 if ours is cheaper.
   */
  readonly ratios?: Readonly<Record<string, Spread>>;
  readonly machine?: MachineUse;
  /** Why this row is unreliable, as text; empty if it is not. */
  readonly noise?: readonly string[];
}

export interface Table {
  readonly name: string;
  readonly title: string;
  readonly unit: string;
  readonly rows: readonly Row[];
  readonly higherIsBetter?: boolean;
}

/** The figures of one stack, by start, in the order of its slices. */
export type SliceFigures = readonly (readonly number[])[];

/** A row of slices. The slices of one round have the same index in every stack. */
export function rowOf(
  label: string,
  series: ReadonlyMap<string, SliceFigures>,
  machine: MachineUse,
  doubts: readonly string[],
): Row {
  const spreads = Object.fromEntries([...series].map(([name, starts]) => [name, spreadOf(starts.flat())]));
  const ours = series.get('ours');
  const ratios: Record<string, Spread> = {};
  for (const [name, starts] of series)
    if (name !== 'ours' && ours !== undefined) ratios[name] = spreadOfRatios(ours, starts);
  const wide = Object.entries(ratios).flatMap(([name, { median: middle, low, high }]) => {
    const percent = ((high - low) / 2 / middle) * 100;
    return percent > noise.halfIntervalPercent ? [`ours / ${name} ±${percent.toFixed(1)} %`] : [];
  });
  return {
    label,
    figures: Object.fromEntries(Object.entries(spreads).map(([name, one]) => [name, one.median])),
    ...{ spreads, ratios, machine },
    noise: [...noiseOf(machine), ...wide, ...doubts],
  };
}

/**
 * A difference between two processes that lasts as long as they run affects all their slices. So with several starts,
 * each start counts as one value, its median.
 */
function spreadOfRatios(ours: SliceFigures, theirs: SliceFigures): Spread {
  const ratios = ours.map((slices, start) => slices.map((one, i) => one / theirs[start]![i]!));
  return spreadOf(ratios.length === 1 ? ratios[0]! : ratios.map(median));
}

/** Rounds to three digits, the precision of such figures. */
export function round(value: number): number {
  return Number(value.toPrecision(3));
}

/** Three decimals, since `--before` is to show differences of 3 %. */
export function roundRatio(value: number): number {
  return Number(value.toFixed(3));
}

/** Ours / another stack's; undefined if one of them has no figure. */
export function ratioOf({ figures, ratios }: Row, peer: string): number | undefined {
  const paired = ratios?.[peer]?.median;
  if (paired !== undefined) return paired;
  const { ours } = figures;
  const theirs = figures[peer];
  return ours === undefined || theirs === undefined || theirs === 0 ? undefined : ours / theirs;
}

/** A ratio, with its 95 % interval if there is one: `1.44 (1.41 to 1.47)`. */
export function formatRatio(row: Row, peer: string): string {
  const value = ratioOf(row, peer);
  if (value === undefined) return '-';
  const spread = row.ratios?.[peer];
  return spread === undefined
    ? String(round(value))
    : `${roundRatio(value)} (${roundRatio(spread.low)} to ${roundRatio(spread.high)})`;
}

/** A share as a change in percent: `+3.1 %`. */
export function formatPercent(share: number): string {
  return `${share < 0 ? '' : '+'}${(share * 100).toFixed(1)} %`;
}

/** The table for a terminal. */
export function formatText(table: Table): string {
  return `${table.title} (${table.unit})\n${alignCells(cellsOf(table))}${formatCircumstances(table)}`;
}

/** The table as Markdown. */
export function formatMarkdown(table: Table): string {
  return `**${table.title}** (${table.unit})\n\n${markdownCells(cellsOf(table))}\n${formatCircumstances(table)}`;
}

/** Cells in aligned columns for a terminal. */
export function alignCells(cells: readonly (readonly string[])[]): string {
  const widths = cells[0]!.map((_, column) => Math.max(...cells.map((row) => row[column]!.length)));
  return cells
    .map(
      (row) =>
        `${row
          .map((cell, column) => cell.padEnd(widths[column]!))
          .join('  ')
          .trimEnd()}\n`,
    )
    .join('');
}

/** Cells as a table in Markdown; the first row is the head. */
export function markdownCells([head, ...rows]: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |\n`;
  return [line(head!), line(head!.map(() => '---')), ...rows.map(line)].join('');
}

function stacksOf({ rows }: Table): string[] {
  return [...new Set(rows.flatMap(({ figures }) => Object.keys(figures)))];
}

function cellsOf(table: Table): string[][] {
  const stacks = stacksOf(table);
  const peers = stacks.filter((one) => one !== 'ours');
  const watched = table.rows.some(({ noise }) => noise !== undefined);
  const head = ['', ...stacks, ...peers.map((peer) => `ours / ${peer}`), ...(watched ? ['run'] : [])];
  const rows = table.rows.map((row) => [
    row.label,
    ...stacks.map((stack) => (row.figures[stack] === undefined ? '-' : String(round(row.figures[stack])))),
    ...peers.map((peer) => formatRatio(row, peer)),
    ...(watched ? [formatNoise(row)] : []),
  ]);
  return [head, ...rows];
}

function formatNoise({ noise = [] }: Row): string {
  return noise.length === 0 ? 'quiet' : `noisy: ${noise.join(', ')}`;
}

/**
 * The machine during the table, and the spread of slices (or starts) in its widest row; empty if the machine was not
 * watched.
 */
function formatCircumstances({ rows }: Table): string {
  const uses = rows.flatMap(({ machine }) => (machine === undefined ? [] : [machine]));
  if (uses.length === 0) return '';
  const { load, otherPercent, stealPercent } = mergeUse(uses);
  const parts = [
    `Load ${load[0].toFixed(1)} to ${load[1].toFixed(1)}`,
    `others ${otherPercent.toFixed(0)} % of the cores`,
    `steal ${stealPercent.toFixed(1)} %`,
  ];
  const widths = rows.flatMap(({ ratios = {} }) =>
    Object.values(ratios).map(({ median: middle, quartiles: [low, high] }) => ((high - low) / 2 / middle) * 100),
  );
  if (widths.length > 0) parts.push(`half of the values within ±${Math.max(...widths).toFixed(0)} % of their ratio`);
  return `${parts.join(', ')}.\n`;
}

const colours = ['#1b6ca8', '#7a7a7a', '#b0b0b0', '#d8a657', '#a3be8c'];
const barHeight = 14;
const left = 150;
const width = 420;

/** A bar for each figure, scaled to the longest of its row. */
export function formatSvg(table: Table): string {
  const stacks = stacksOf(table);
  const rowHeight = stacks.length * (barHeight + 2) + 12;
  const parts = table.rows.flatMap(({ label, figures }, index) => {
    const top = 50 + index * rowHeight;
    const longest = Math.max(...Object.values(figures), Number.MIN_VALUE);
    return [
      `<text x="${left - 10}" y="${top + rowHeight / 2 - 6}" text-anchor="end">${escapeXml(label)}</text>`,
      ...stacks.flatMap((stack, i) => {
        const value = figures[stack];
        if (value === undefined) return [];
        const y = top + i * (barHeight + 2);
        const length = Math.max(1, Math.round((value / longest) * width));
        return [
          `<rect x="${left}" y="${y}" width="${length}" height="${barHeight}" fill="${colours[i % colours.length]}"/>`,
          `<text x="${left + length + 5}" y="${y + 11}">${round(value)} ${escapeXml(stack)}</text>`,
        ];
      }),
    ];
  });
  const height = 60 + table.rows.length * rowHeight;
  const hint = table.higherIsBetter === true ? 'longer is better' : 'shorter is better';
  return `<svg xmlns="http://www.w3.org/2000/svg" width="720" height="${height}" font-family="sans-serif" font-size="11">
<title>${escapeXml(table.title)}</title>
<rect width="720" height="${height}" fill="white"/>
<text x="10" y="24" font-size="15">${escapeXml(table.title)} (${escapeXml(table.unit)}; ${hint})</text>
${parts.join('\n')}
</svg>
`;
}

function escapeXml(text: string): string {
  return text.replace(/[<>&"]/g, (one) => `&#${one.charCodeAt(0)};`);
}
