// Tables of figures: one row for each case, one column for each stack. As text with ratios and verdicts, as Markdown, as JSON,
// and as a picture.

/** One case, and what each stack took for it. Lower is better unless the table says otherwise. */
export interface Row {
  readonly label: string;
  readonly figures: Readonly<Record<string, number>>;
}

export interface Table {
  /** As it is named on the command line. */
  readonly name: string;
  readonly title: string;
  readonly unit: string;
  readonly rows: readonly Row[];
  readonly higherIsBetter?: boolean;
}

/** What the issue asks for: ours / peer at most, or an absolute bound. */
export interface Reach {
  readonly table: string;
  readonly label?: string;
  readonly peer?: string;
  readonly most: number;
}

export const reach: readonly Reach[] = [
  { table: 'http1-cpu', label: '1 in flight', peer: 'nginx', most: 1.5 },
  { table: 'http1-cpu', label: '8 in flight', peer: 'nginx', most: 1 },
  { table: 'http1-cpu', label: '32 in flight', peer: 'nginx', most: 0.8 },
  { table: 'http1-cpu', label: '256 in flight', peer: 'nginx', most: 0.5 },
  { table: 'http2-cpu', peer: 'haproxy', most: 1.5 },
  { table: 'handshake-cpu', peer: 'nginx', most: 1 },
  { table: 'tcp-cpu', peer: 'haproxy', most: 1.1 },
  { table: 'latency-added', label: 'p99', peer: 'nginx', most: 1.2 },
  { table: 'memory', label: 'after the load', most: 100 },
  { table: 'idle-connections', label: 'over bare node:tls', most: 12 },
  { table: 'decision', label: '10,000 rules', most: 1 },
  { table: 'edge-cpu', label: '1,000 routes', peer: 'nginx', most: 1.2 },
  { table: 'edge-cpu', label: '1,000 routes, 200 users with tokens', peer: 'nginx', most: 1.4 },
];

/** Three digits are what such figures are worth. */
export function round(value: number): number {
  return Number(value.toPrecision(3));
}

/** Ours against a peer's, below 1 where we are cheaper; undefined where one of them has no figure. */
export function ratioOf({ figures }: Row, peer: string): number | undefined {
  const { ours } = figures;
  const theirs = figures[peer];
  return ours === undefined || theirs === undefined || theirs === 0 ? undefined : round(ours / theirs);
}

/** What was wanted of a row, and whether it holds: `nginx <= 0.8 missed (1.3)`. */
export function verdictsOf({ name }: Table, row: Row): string[] {
  return reach
    .filter((one) => one.table === name && (one.label === undefined || one.label === row.label))
    .flatMap(({ peer, most }) => {
      const value = peer === undefined ? row.figures['ours'] : ratioOf(row, peer);
      if (value === undefined) return [];
      return [`${peer === undefined ? '' : `${peer} `}<= ${most} ${value <= most ? 'holds' : 'missed'}`];
    });
}

function stacksOf({ rows }: Table): string[] {
  return [...new Set(rows.flatMap(({ figures }) => Object.keys(figures)))];
}

/** For a terminal. */
export function formatText(table: Table): string {
  const cells = cellsOf(table);
  const widths = cells[0]!.map((_, column) => Math.max(...cells.map((row) => row[column]!.length)));
  const lines = cells.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join('  ')
      .trimEnd(),
  );
  return `${table.title} (${table.unit})\n${lines.join('\n')}\n`;
}

/** For a document. */
export function formatMarkdown(table: Table): string {
  const [head, ...rows] = cellsOf(table);
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return `**${table.title}** (${table.unit})\n\n${[line(head!), line(head!.map(() => '---')), ...rows.map(line)].join('\n')}\n`;
}

function cellsOf(table: Table): string[][] {
  const stacks = stacksOf(table);
  const peers = stacks.filter((one) => one !== 'ours');
  const wanted = table.rows.some((row) => verdictsOf(table, row).length > 0);
  const head = ['', ...stacks, ...peers.map((peer) => `ours / ${peer}`), ...(wanted ? ['reach'] : [])];
  const rows = table.rows.map((row) => [
    row.label,
    ...stacks.map((stack) => (row.figures[stack] === undefined ? '-' : String(round(row.figures[stack])))),
    ...peers.map((peer) => String(ratioOf(row, peer) ?? '-')),
    ...(wanted ? [verdictsOf(table, row).join(', ')] : []),
  ]);
  return [head, ...rows];
}

const colours = ['#1b6ca8', '#7a7a7a', '#b0b0b0', '#d8a657', '#a3be8c'];
const barHeight = 14;
const left = 150;
const width = 420;

/** A bar for each figure, each row by its own longest. */
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
