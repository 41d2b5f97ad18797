// `sallyport ca ledger`: what the CA did, and whether that record is whole. The work is done in cert-agent/ca/ledger.

import { createReadStream } from 'node:fs';
import { Command } from 'commander';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import type { LedgerReader } from '../../cert-agent/ca/ledger/copy.ts';
import type { Verification, VerifyOptions } from '../../cert-agent/ca/ledger/verify.ts';
import { type AtCa, atCa, readHead, timeOf, usage, withOperator } from './at-ca.ts';
import {
  action,
  counted,
  exitCodes,
  harmless,
  note,
  noteWarning,
  print,
  printJson,
  printLines,
  printTable,
} from './terminal.ts';

/** The command with its subcommands. */
export function ledgerCommand(): Command {
  return new Command('ledger')
    .description('Show, export and verify the record of what the CA did')
    .addCommand(verify())
    .addCommand(show())
    .addCommand(exportCommand());
}

function verify(): Command {
  return atCa(new Command('verify'))
    .description('Verify an exported copy, or the ledger of a CA: edits, gaps, reorderings, truncation')
    .argument('[file]', 'copy made with ca ledger export, or - for standard input')
    .option('--ca-bundle <file>', "the CA's roots, such as bundle.pem")
    .option('--head <head...>', "a head that was seen: an agent's ledger-head.json, or SEQUENCE:HASH")
    .option('--part', 'the copy may begin at any signed head: it was exported with --since')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
The CA signs the end of the ledger at least once an hour. Records after the last signed head are only chained together:
verify says how many there are. A copy that was cut together with its heads is found only with --head.
The exit code is 1 if something is wrong.

Example:
  sallyport ca ledger verify ledger.jsonl --ca-bundle bundle.pem --head run/web/ledger-head.json
  sallyport ca ledger verify --dir ca`,
    )
    .action(action(runVerify));
}

interface VerifyFlags extends AtCa {
  readonly caBundle?: string;
  readonly head?: readonly string[];
  readonly part?: boolean;
}

async function runVerify(file: string | undefined, flags: VerifyFlags): Promise<number> {
  const { verifyCopy } = await import('../../cert-agent/ca/ledger/verify.ts');
  const seen = (flags.head ?? []).map((one) => readHead(one, '--head'));
  const given = await readRoots(flags);
  const more = { seen, part: flags.part === true };
  if (file !== undefined) {
    if (given === undefined) throw usage("give the CA's roots with --ca-bundle", 'a CA has them in bundle.pem');
    const stream: AsyncIterable<Buffer> =
      file === '-' ? process.stdin : createReadStream(file, { highWaterMark: 262_144 });
    return report(await verifyCopy(readable(stream, file), { ...given, ...more }), flags);
  }
  return withOperator(flags, async ({ records }) => {
    const { trustDomain, roots } = await records.state();
    if (flags.caBundle === undefined) note("checked against the CA's own roots; --ca-bundle takes others");
    const options = given ?? { trustDomain, roots: roots.map((one) => Buffer.from(one, 'base64')) };
    return report(await verifyLive(records, { ...options, ...more }), flags);
  });
}

async function* readable(stream: AsyncIterable<Buffer>, file: string): AsyncGenerator<Buffer> {
  try {
    yield* stream;
  } catch (error) {
    throw new SallyportError('config_unreadable', `${file} cannot be read: ${reasonOf(error)}`, { cause: error });
  }
}

async function verifyLive(records: LedgerReader, options: VerifyOptions): Promise<Verification> {
  const [{ copyLines }, { LedgerVerifier }] = await Promise.all([
    import('../../cert-agent/ca/ledger/copy.ts'),
    import('../../cert-agent/ca/ledger/verify.ts'),
  ]);
  const verifier = new LedgerVerifier(options);
  for await (const line of copyLines(records)) verifier.line(line);
  return verifier.end();
}

async function readRoots({ caBundle, dir }: VerifyFlags): Promise<VerifyOptions | undefined> {
  if (caBundle === undefined && dir === undefined) return undefined;
  if (caBundle === undefined) {
    const { readCaCertificates } = await import('../../cert-agent/ca/certificates.ts');
    const { trustDomain, bundle } = readCaCertificates(dir ?? '');
    return { trustDomain, roots: bundle.roots };
  }
  const { readBundleFile } = await import('../../cert-agent/identity/read.ts');
  const { trustDomain, roots } = readBundleFile(caBundle, undefined);
  return { trustDomain, roots };
}

function report(found: Verification, { json }: VerifyFlags): number {
  const { faults, faultCount, records, heads, covered, uncovered, last, checkpoint } = found;
  const code = faultCount === 0 ? exitCodes.ok : exitCodes.no;
  if (json === true) {
    printJson(found);
    return code;
  }
  for (const { message } of faults) print(harmless(message));
  if (faultCount > faults.length) print(`and ${faultCount - faults.length} more`);
  const span = records === 0 ? 'no records' : `${counted(records, 'record')}, ${checkpoint + 1} to ${last.sequence}`;
  print(`${faultCount === 0 ? 'verified' : 'NOT verified'}: ${span}; ${counted(heads, 'signed head')}`);
  if (uncovered > 0)
    note(
      `${counted(uncovered, 'record')} after record ${covered} ${uncovered === 1 ? 'is' : 'are'} not covered by a signature yet`,
    );
  for (const { sequence, time, lost } of found.restored)
    noteWarning(
      `record ${sequence}, ${harmless(time)}: the CA was restored from a backup${lost === undefined ? '' : `; records ${lost.from} to ${lost.to} are lost`}`,
    );
  for (const { sequence, why } of found.notCompared)
    noteWarning(`--head of record ${sequence} was not compared: ${why}`);
  return code;
}

const defaultLimit = 100;
const mostShown = 10_000;

function show(): Command {
  return atCa(new Command('show'))
    .description('Show the last records')
    .option('--since <time>', 'from this time on: 24h for a day ago, or 2026-11-30T12:00:00Z')
    .option('--until <time>', 'before this time')
    .option('--identity <id>', 'of this SPIFFE ID only, proved or claimed')
    .option('--act <acts>', 'of these acts only, such as renew,refuse')
    .option('--limit <number>', `how many at most, up to ${mostShown}`, String(defaultLimit))
    .option('--heads', 'show signed heads instead')
    .option('--json', 'print them as JSON')
    .addHelpText('after', '\nExample:\n  sallyport ca ledger show --dir ca --since 24h --act refuse,revoke')
    .action(action(runShow));
}

interface ShowFlags extends AtCa {
  readonly since?: string;
  readonly until?: string;
  readonly identity?: string;
  readonly act?: string;
  readonly limit: string;
  readonly heads?: boolean;
}

async function runShow(flags: ShowFlags): Promise<number> {
  const limit = Number(flags.limit);
  if (!Number.isInteger(limit) || limit < 1 || limit > mostShown) throw usage(`--limit is 1 to ${mostShown}`);
  const { actNames } = await import('../../cert-agent/ca/ledger/record.ts');
  const acts = flags.act?.split(',');
  const unknown = acts?.find((one) => !actNames.some((name) => name === one));
  if (unknown !== undefined) throw usage(`there is no act '${unknown}'`, `choose from ${actNames.join(', ')}`);
  const since = flags.since === undefined ? undefined : await timeOf(flags.since, '--since');
  const until = flags.until === undefined ? undefined : await timeOf(flags.until, '--until');
  const { lastHeads, lastRecords } = await import('../../cert-agent/ca/ledger/look.ts');
  return withOperator(flags, async ({ records }) => {
    if (flags.heads === true) return showHeads(await lastHeads(records, { since, until, limit }), flags);
    const found = await lastRecords(records, { since, until, limit, identity: flags.identity, acts });
    if (flags.json === true) printJson(found);
    else {
      const rows = found.map(({ sequence, time, act, caller, id = '', evidence = '', answer, details }) => [
        String(sequence),
        ...[time, act, caller, id, evidence, answer].map(harmless),
        harmless(
          Object.entries(details)
            .map(([name, value]) => `${name}=${shortened(String(value))}`)
            .join(' '),
        ),
      ]);
      printTable(['RECORD', 'TIME', 'ACT', 'CALLER', 'SPIFFE ID', 'EVIDENCE', 'ANSWER', 'DETAILS'], rows, 'no records');
      if (found.length === limit) note(`the last ${limit}; --limit and --since show others`);
    }
    return exitCodes.ok;
  });
}

/** Roots, in full: for verify and --json. */
function shortened(value: string): string {
  return value.length <= longestShown ? value : `${value.slice(0, longestShown - 3)}...`;
}

const longestShown = 40;

type Heads = Awaited<ReturnType<typeof import('../../cert-agent/ca/ledger/look.ts')['lastHeads']>>;

function showHeads(heads: Heads, { json }: AtCa): number {
  if (json === true) printJson(heads);
  else
    printTable(
      ['RECORD', 'SIGNED', 'HASH'],
      heads.map(({ sequence, time, hash }) => [String(sequence), time, hash]),
      'no heads',
    );
  return exitCodes.ok;
}

function exportCommand(): Command {
  return atCa(new Command('export'))
    .description('Write a copy of the ledger: JSON lines that ca ledger verify reads, or CSV')
    .option('--json', 'JSON lines with hashes and signed heads (the default)')
    .option('--csv', 'CSV for spreadsheets, which cannot be verified')
    .option('--since <time>', 'from this time on; JSON lines begin at the last signed head before it')
    .option('--out <file>', 'write to this file, readable by you only')
    .addHelpText('after', '\nExample:\n  sallyport ca ledger export --dir ca --out ledger.jsonl')
    .action(action(runExport));
}

async function runExport(flags: AtCa & { csv?: boolean; since?: string; out?: string }): Promise<number> {
  if (flags.csv === true && flags.json === true) throw usage('give either --json or --csv');
  const since = flags.since === undefined ? undefined : await timeOf(flags.since, '--since');
  const [{ copyLines }, { csvLines }] = await Promise.all([
    import('../../cert-agent/ca/ledger/copy.ts'),
    import('../../cert-agent/ca/ledger/look.ts'),
  ]);
  const { checkOut, writeLinesOut } = await import('./out-file.ts');
  if (flags.out !== undefined) checkOut(flags.out);
  return withOperator(flags, async ({ records }) => {
    const lines = flags.csv === true ? csvLines(records, since) : copyLines(records, since);
    if (flags.out === undefined) await printLines(lines);
    else {
      await writeLinesOut(flags.out, lines);
      note(`wrote ${flags.out}`);
    }
    return exitCodes.ok;
  });
}
