// `sallyport ca report`: as tables, as JSON, or as a page.

import { Command } from 'commander';
import type { Listing, Report } from '../../cert-agent/ca/operator/report.ts';
import { type AtCa, atCa, timeOf, withOperator } from './at-ca.ts';
import { action, exitCodes, harmless, note, print, printJson, printTable } from './terminal.ts';

export function reportCommand(): Command {
  return atCa(new Command('report'))
    .description('Report on the identities of a CA, and on what in its ledger deserves a look')
    .option('--since <time>', 'acts from this time on', '30d')
    .option('--json', 'print it as JSON')
    .option('--html <file>', 'write it as one page, readable by you only')
    .addHelpText('after', '\nExample:\n  sallyport ca report --dir ca --html report.html')
    .action(action(runReport));
}

async function runReport(flags: AtCa & { since: string; html?: string }): Promise<number> {
  const since = await timeOf(flags.since, '--since');
  const { collectReport } = await import('../../cert-agent/ca/operator/report.ts');
  const { formatDuration } = await import('../../cert-agent/base/clock.ts');
  const { checkOut, writeOut } = await import('./out-file.ts');
  const { html } = flags;
  if (html !== undefined) checkOut(html);
  return withOperator(flags, async (operator) => {
    const report = await collectReport(operator, since, Date.now());
    if (flags.json === true) printJson(report);
    const sections = sectionsOf(report, formatDuration);
    if (html !== undefined) {
      await writeOut(html, pageOf(report, sections));
      note(`wrote ${html}`);
    } else if (flags.json !== true) {
      print(headOf(report));
      for (const { title, head, rows, more } of sections) {
        print(`\n${title}`);
        printTable(
          head,
          rows.map((row) => row.map(harmless)),
          'none',
        );
        if (more > 0) print(`and ${more} more`);
      }
    }
    return exitCodes.ok;
  });
}

interface Section {
  readonly title: string;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** Entries that are not listed. */
  readonly more: number;
}

function headOf({ trustDomain, time, since, ledger }: Report): string {
  const { first, last, signedUpTo } = ledger;
  return `${trustDomain} at ${time}; acts since ${since}; records ${first} to ${last}, signed up to ${signedUpTo}`;
}

function sectionsOf(report: Report, formatDuration: (ms: number) => string): Section[] {
  const section = <T>(
    title: string,
    head: readonly string[],
    list: Listing<T>,
    row: (one: T) => string[],
  ): Section => ({
    title: `${title}: ${list.total}`,
    head,
    rows: list.listed.map(row),
    more: list.total - list.listed.length,
  });
  const longest = { total: report.longestLives.length, listed: report.longestLives };
  const acts = ['RECORD', 'TIME', 'ACT', 'BY', 'WHAT', 'NOTE'];
  const act = (one: Report['denials']['listed'][number]): string[] => [
    String(one.record),
    ...[one.time, one.act, one.by, one.target, one.note],
  ];
  return [
    section(
      'Identities',
      ['SPIFFE ID', 'VALID', 'LAST ISSUED', 'LAST RENEWAL', 'NEXT EXPIRY', 'KEY', 'NAMES'],
      report.identities,
      (one) => [
        ...[one.id, String(one.certificates), one.lastIssued],
        ...[one.lastRenewal ?? 'never', one.nextExpiry ?? '', one.key, one.names?.join(' ') ?? ''],
      ],
    ),
    section('Never renewed', ['SPIFFE ID', 'LAST ISSUED', 'NEXT EXPIRY'], report.neverRenewed, (one) => [
      ...[one.id, one.lastIssued, one.nextExpiry ?? ''],
    ]),
    section('Unused join tokens', ['TOKEN', 'SPIFFE ID', 'EXPIRES'], report.unusedTokens, (one) => [
      ...[one.token, one.id, one.expiresAt],
    ]),
    section('Weak keys', ['SPIFFE ID', 'KEY'], report.weakKeys, (one) => [one.id, one.key]),
    section('Longest lives', ['SPIFFE ID', 'LIFE'], longest, (one) => [one.id, formatDuration(one.longestLifeMs ?? 0)]),
    section('Denied and allowed', acts, report.denials, act),
    section('DNS names allowed and disallowed', acts, report.dns, act),
    section('Renewals of expired SVIDs', acts, report.expiredRenewals, act),
    section('SVIDs that were renewed more than once', acts, report.forks, act),
    section('Restores from a backup', acts, report.restores, act),
    ...(report.clocks === undefined
      ? []
      : [
          section('Clocks that differ', ['SPIFFE ID', 'CLOCK'], report.clocks, ({ id, aheadMs }) => [
            id,
            `${formatDuration(Math.abs(aheadMs))} ${aheadMs > 0 ? 'ahead' : 'behind'}`,
          ]),
        ]),
  ];
}

/** One page without scripts. The policy forbids them too, and whatever else is not in the page. */
function pageOf(report: Report, sections: readonly Section[]): string {
  const parts = sections.map(({ title, head, rows, more }) => {
    const row = (cells: readonly string[], tag: string): string =>
      `<tr>${cells.map((cell) => `<${tag}>${escaped(cell)}</${tag}>`).join('')}</tr>`;
    const table =
      rows.length === 0
        ? '<p>none</p>'
        : `<table>\n${row(head, 'th')}\n${rows.map((cells) => row(cells, 'td')).join('\n')}\n</table>`;
    return `<h2>${escaped(title)}</h2>\n${table}${more > 0 ? `\n<p>and ${more} more</p>` : ''}`;
  });
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${escaped(report.trustDomain)}: report</title>
<style>body{font:14px sans-serif;margin:2em}table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:2px 8px;
text-align:left}td{font-family:monospace}</style></head>
<body><h1>${escaped(report.trustDomain)}</h1>
<p>${escaped(headOf(report))}</p>
${parts.join('\n')}
</body></html>
`;
}

function escaped(text: string): string {
  return harmless(text).replace(/[&<>"']/g, (one) => `&#${one.charCodeAt(0)};`);
}
