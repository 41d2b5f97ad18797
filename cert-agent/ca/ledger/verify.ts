// Verifies a copy of the ledger without the CA: with its records, its signed heads and the CA's roots. It finds every
// edit, gap, reordering, duplicate and truncation before the last signed head. Records after that head are only chained
// together: an intruder with write access to the store could have replaced them all.

import { isUtf8 } from 'node:buffer';
import { firstLine, headLine, recordLine } from './copy.ts';
import { notAnIssuer, whyUnsigned } from './head.ts';
import { Issuers } from './issuers.ts';
import { genesis, hashOf } from './record.ts';
import type { LedgerHead } from './table.ts';

/** A known head: an agent's `ledger-head.json`, or a note on paper. */
export interface SeenHead {
  readonly sequence: number;
  readonly hash: string;
}

/**
 * Stable names. `edited`: the hash is not that of the content. `head_invalid`: a signature that proves nothing.
 * `head_mismatch`: records before a signed or seen head were replaced. `truncated`: a signed or seen head covers more
 * than the copy has. `unsigned`: no head covers any record.
 */
export type FaultKind =
  | 'copy_invalid'
  | 'edited'
  | 'gap'
  | 'order'
  | 'duplicate'
  | 'head_invalid'
  | 'head_mismatch'
  | 'truncated'
  | 'unsigned';

/** One fault, for people. Verification continues after it, so that each is reported once. */
export interface Fault {
  readonly kind: FaultKind;
  /** The first record that it concerns; undefined if it concerns none. */
  readonly sequence?: number;
  /** The line of the copy, from 1. */
  readonly line?: number;
  readonly message: string;
}

/** A restore from a backup, as its record reports it. */
export interface Restored {
  readonly sequence: number;
  readonly time: string;
  /** The records that it lost, if it lost any. */
  readonly lost?: { readonly from: number; readonly to: number };
}

/** The copy is good if `faultCount` is 0; records after `covered` are even then only chained together. */
export interface Verification {
  readonly trustDomain: string;
  /** In the order of the copy: the first 20. */
  readonly faults: readonly Fault[];
  readonly faultCount: number;
  readonly records: number;
  readonly heads: number;
  /** The sequence of the checkpoint that the copy begins with; 0 for the beginning of the ledger. */
  readonly checkpoint: number;
  readonly last: { readonly sequence: number; readonly hash: string };
  /** The last record that a signature covers; 0 if there is none. */
  readonly covered: number;
  /** Records after that one. */
  readonly uncovered: number;
  readonly restored: readonly Restored[];
  /** Seen heads that could not be compared: before the checkpoint, or lost by a restore. */
  readonly notCompared: readonly { readonly sequence: number; readonly why: string }[];
}

/** `seen` are heads that others have kept, such as agents: they prove that a copy was truncated. */
export interface VerifyOptions {
  /** The trust domain of the roots. */
  readonly trustDomain: string;
  /** The roots of the CA, DER. */
  readonly roots: readonly Uint8Array[];
  readonly seen?: readonly SeenHead[];
  /** The copy may begin at any signed head (`--since`). Otherwise a record must show that earlier ones were pruned. */
  readonly part?: boolean;
}

const mostFaults = 20;

/** Restores are rare. A copy with more gets no more memory. */
const mostRestores = 1000;

/** A record is shorter than this; a longer line is not kept. */
const longestLine = 1_048_576;

/** Takes the lines of a copy one by one. Its memory does not grow with the copy. */
export class LedgerVerifier {
  readonly #options: VerifyOptions;
  readonly #faults: Fault[] = [];
  #faultCount = 0;
  #lines = 0;
  #records = 0;
  #heads = 0;
  #started = false;
  #checkpoint = 0;
  /** How far records say that the ledger was pruned, and the first one that covers everything before the copy. */
  #prunedTo = 0;
  #prunedBy = Number.POSITIVE_INFINITY;
  #sequence = 0;
  #hash = genesis;
  /** The last record that a head of a present root covers; at the end, one of an earlier root too. */
  #covered = 0;
  /** The last record whose head matches. */
  #matched = 0;
  /** The highest sequence of any head, good or not. */
  #highestHead = 0;
  #lastHead = 0;
  readonly #restored: Restored[] = [];
  readonly #issuers: Issuers;
  /** Seen heads by sequence, each with the copy's record at that place. */
  readonly #seen = new Map<number, { readonly hashes: readonly string[]; found?: string }>();

  constructor(options: VerifyOptions) {
    this.#options = options;
    this.#issuers = new Issuers(options.roots);
    for (const { sequence, hash } of options.seen ?? [])
      this.#seen.set(sequence, { hashes: [...(this.#seen.get(sequence)?.hashes ?? []), hash] });
  }

  /** The next line, without its end. */
  line(text: string): void {
    this.#lines += 1;
    if (!this.#started) return this.#begin(text);
    const value = objectOf(text);
    if (value === undefined) return this.#unreadable();
    // The CA writes each line in one way. Anything else was edited.
    if (typeof value['hash'] === 'string' && typeof value['record'] === 'string') {
      if (recordLine({ hash: value['hash'], line: value['record'] }) !== text) return this.#unreadable();
      return this.#record(value['hash'], value['record']);
    }
    const head = headOf(value['head']);
    if (head === undefined || headLine(head) !== text) return this.#unreadable();
    this.#head(head);
  }

  /** A line that was not kept: longer than any record, or not UTF-8. */
  skip(): void {
    this.#lines += 1;
    this.#unreadable();
  }

  /** Call once, after the last line. */
  end(): Verification {
    if (!this.#started) this.#add('copy_invalid', 'it is not a copy of a ledger: its first line is missing');
    const { trustDomain } = this.#options;
    if (this.#highestHead > this.#sequence)
      this.#add(
        'truncated',
        `it ends with record ${this.#sequence}, but a head covers ${this.#highestHead}: the end is missing`,
        this.#sequence + 1,
      );
    const unlike = this.#compareSeen();
    this.#settle();
    // A record that no head covers is untrusted: it excuses nothing.
    if (this.#checkpoint > 0 && this.#prunedBy > this.#proved && this.#options.part !== true)
      this.#add('gap', this.#whyNotPruned(), Math.min(this.#prunedTo, this.#checkpoint - 1) + 1);
    const notCompared = this.#explain(unlike);
    if (this.#records > 0 && this.#covered === 0 && this.#checkpoint === 0)
      this.#add('unsigned', 'no signed head covers any record: nothing proves that these are the records of the CA');
    return {
      ...{ trustDomain, faults: this.#faults, faultCount: this.#faultCount, records: this.#records },
      ...{ heads: this.#heads, checkpoint: this.#checkpoint },
      last: { sequence: this.#sequence, hash: this.#hash },
      covered: this.#proved,
      uncovered: Math.max(0, this.#sequence - this.#proved),
      ...{ restored: this.#restored, notCompared },
    };
  }

  /** The last record that is proved to be the CA's. */
  get #proved(): number {
    return Math.max(this.#covered, this.#checkpoint);
  }

  #whyNotPruned(): string {
    const missing = `records up to ${this.#checkpoint} are missing, and`;
    return this.#prunedBy > this.#sequence
      ? `${missing} no record says that they were pruned`
      : `${missing} no signed head covers record ${this.#prunedBy}, which says that they were pruned`;
  }

  /** Decides on the heads of issuers that no present root signed. */
  #settle(): void {
    const { covered, unknown } = this.#issuers.settle(this.#covered);
    this.#covered = covered;
    for (const { sequences, count } of unknown) {
      for (const sequence of sequences) this.#add('head_invalid', whatProvesNothing(sequence, notAnIssuer), sequence);
      this.#faultCount += count - sequences.length;
    }
  }

  /** Why the head proves nothing; undefined if it does, or if later records may show that it does. */
  #whyUnproved(head: LedgerHead): string | undefined {
    const why = whyUnsigned(this.#options.trustDomain, head);
    if (why !== undefined || this.#issuers.isPresent(head.issuer)) return why;
    return this.#issuers.wait(head.issuer, head.sequence) ? undefined : notAnIssuer;
  }

  #begin(text: string): void {
    this.#started = true;
    const value = objectOf(text);
    const { trustDomain } = this.#options;
    if (value?.['ledger'] !== 1) {
      const versioned = typeof value?.['ledger'] === 'number';
      this.#add(
        'copy_invalid',
        versioned
          ? `this build cannot read copies of version ${value['ledger']}`
          : 'it is not a copy of a ledger: the first line must say {"ledger":1,...}',
      );
      return;
    }
    const { checkpoint = null } = value;
    if (value['trustDomain'] !== trustDomain)
      this.#add(
        'copy_invalid',
        `it is the ledger of ${String(value['trustDomain'])}, but the roots are of ${trustDomain}`,
      );
    const head = headOf(checkpoint);
    if (checkpoint !== null && head === undefined) return this.#add('copy_invalid', 'its checkpoint cannot be read');
    if (firstLine(String(value['trustDomain']), head) !== text) this.#unreadable();
    if (head === undefined) return;
    const why = this.#whyUnproved(head);
    if (why !== undefined) this.#add('head_invalid', whatProvesNothing(head.sequence, why), head.sequence);
    this.#checkpoint = head.sequence;
    this.#sequence = head.sequence;
    this.#hash = head.hash;
    this.#lastHead = head.sequence;
    this.#note(head.sequence, head.hash);
  }

  #record(hash: string, line: string): void {
    const fields = objectOf(line);
    const sequence = fields?.['sequence'];
    if (fields === undefined || !isSequence(sequence)) return this.#unreadable();
    const expected = this.#sequence + 1;
    this.#records += 1;
    if (sequence === this.#sequence) return this.#add('duplicate', `record ${sequence} occurs twice`, sequence);
    if (sequence < expected)
      return this.#add('order', `record ${sequence} comes after record ${this.#sequence}`, sequence);
    if (sequence > expected) {
      const what = sequence === expected + 1 ? `record ${expected} is` : `records ${expected} to ${sequence - 1} are`;
      this.#add('gap', `${what} missing`, expected);
    } else if (hashOf(this.#hash, line) !== hash) {
      this.#add('edited', `record ${sequence} was changed: its hash does not match`, sequence);
    } else if (typeof fields['roots'] === 'string') this.#issuers.note(sequence, fields['roots']);
    // Continues with the hash of the copy, so that each fault is reported once.
    this.#sequence = sequence;
    this.#hash = hash;
    this.#note(sequence, hash);
    const { act, upTo } = fields;
    if (act === 'checkpoint' && isSequence(upTo)) {
      this.#prunedTo = Math.max(this.#prunedTo, upTo);
      if (upTo >= this.#checkpoint) this.#prunedBy = Math.min(this.#prunedBy, sequence);
    }
    if (act === 'restore' && this.#restored.length < mostRestores) this.#restored.push(restoredOf(fields));
  }

  #head(head: LedgerHead): void {
    const { sequence, hash } = head;
    this.#heads += 1;
    const why = this.#whyUnproved(head);
    if (why !== undefined) return this.#add('head_invalid', whatProvesNothing(sequence, why), sequence);
    this.#highestHead = Math.max(this.#highestHead, sequence);
    if (sequence > this.#sequence) return;
    if (sequence < this.#sequence || sequence <= this.#lastHead)
      return this.#add('order', `the head of record ${sequence} is not in its place`, sequence);
    const from = this.#matched === 0 ? this.#checkpoint + 1 : this.#matched + 1;
    this.#lastHead = sequence;
    if (hash !== this.#hash)
      return this.#add(
        'head_mismatch',
        `the signed head of record ${sequence} does not match: records were replaced between ${from} and ${sequence}`,
        from,
      );
    this.#matched = sequence;
    if (this.#issuers.isPresent(head.issuer)) this.#covered = sequence;
    else this.#issuers.match(head.issuer, sequence);
  }

  #note(sequence: number, hash: string): void {
    const seen = this.#seen.get(sequence);
    if (seen !== undefined) seen.found = hash;
  }

  /** A seen head that the copy has covers its records. Returns the others. */
  #compareSeen(): { readonly sequence: number; readonly found: boolean }[] {
    const unlike: { sequence: number; found: boolean }[] = [];
    for (const [sequence, { hashes, found }] of this.#seen)
      if (found !== undefined && hashes.every((one) => one === found))
        this.#covered = Math.max(this.#covered, sequence);
      else unlike.push({ sequence, found: found !== undefined });
    return unlike;
  }

  /** Reports seen heads that the copy does not have, unless a restore lost them or they are before the copy. */
  #explain(
    unlike: readonly { readonly sequence: number; readonly found: boolean }[],
  ): { sequence: number; why: string }[] {
    const notCompared: { sequence: number; why: string }[] = [];
    for (const { sequence, found } of unlike) {
      const lostBy = this.#restored.find(
        ({ lost }) => lost !== undefined && lost.from <= sequence && sequence <= lost.to,
      );
      if (lostBy !== undefined && lostBy.sequence <= this.#proved)
        notCompared.push({ sequence, why: `a restore lost it: see record ${lostBy.sequence}` });
      else if (sequence < this.#checkpoint)
        notCompared.push({ sequence, why: `the copy begins after record ${this.#checkpoint}` });
      else if (lostBy !== undefined)
        this.#add(
          'truncated',
          `record ${sequence} was seen, and no signed head covers record ${lostBy.sequence}, by which a restore lost it`,
          lostBy.sequence,
        );
      else if (!found)
        this.#add(
          'truncated',
          `it ends with record ${this.#sequence}, but record ${sequence} was seen: the end is missing`,
          this.#sequence + 1,
        );
      else
        this.#add(
          'head_mismatch',
          `record ${sequence} is not the one that was seen: it or an earlier one was replaced`,
          sequence,
        );
    }
    return notCompared;
  }

  #unreadable(): void {
    const where = this.#sequence === 0 ? 'in the beginning' : `after record ${this.#sequence}`;
    this.#add(
      'copy_invalid',
      `line ${this.#lines}, ${where}, is not a line of a ledger: was it cut or edited?`,
      this.#sequence + 1,
    );
  }

  #add(kind: FaultKind, message: string, sequence?: number): void {
    this.#faultCount += 1;
    if (this.#faults.length >= mostFaults) return;
    const line = this.#lines === 0 ? {} : { line: this.#lines };
    this.#faults.push({ kind, ...(sequence === undefined ? {} : { sequence }), ...line, message });
  }
}

/** Verifies a copy that arrives in pieces. Holds one line at a time, of 1 MiB at most. */
export async function verifyCopy(
  pieces: AsyncIterable<Buffer> | Iterable<Buffer>,
  options: VerifyOptions,
): Promise<Verification> {
  const verifier = new LedgerVerifier(options);
  let parts: Buffer[] = [];
  let held = 0;
  const take = (last: Buffer): void => {
    const isLong = held + last.length > longestLine;
    const line = parts.length === 0 ? last : Buffer.concat([...parts, last]);
    parts = [];
    held = 0;
    if (isLong || !isUtf8(line)) verifier.skip();
    else verifier.line(line.toString('utf8'));
  };
  for await (const piece of pieces) {
    let start = 0;
    for (let end = piece.indexOf(10); end !== -1; end = piece.indexOf(10, start)) {
      take(piece.subarray(start, end));
      start = end + 1;
    }
    if (start === piece.length) continue;
    const rest = piece.subarray(start);
    held += rest.length;
    if (held <= longestLine) parts.push(rest);
  }
  if (held > 0) take(Buffer.alloc(0));
  return verifier.end();
}

function objectOf(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function whatProvesNothing(sequence: number, why: string): string {
  return `the head of record ${sequence} proves nothing: ${why}`;
}

function isSequence(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}

function headOf(value: unknown): LedgerHead | undefined {
  if (!isObject(value)) return undefined;
  const { sequence, hash, time, signature, issuer } = value;
  if (!isSequence(sequence) || typeof time !== 'string' || Number.isNaN(Date.parse(time))) return undefined;
  if (typeof hash !== 'string' || !isBase64(signature) || !isIssuer(issuer)) return undefined;
  return { sequence, hash, time: Date.parse(time), signature, issuer };
}

/** Base64 in its canonical spelling: Node ignores foreign characters. */
function isBase64(value: unknown): value is string {
  return typeof value === 'string' && Buffer.from(value, 'base64').toString('base64') === value;
}

function isIssuer(value: unknown): value is string {
  return typeof value === 'string' && value.split(' ').every(isBase64);
}

function restoredOf(fields: Readonly<Record<string, unknown>>): Restored {
  const { sequence, time, lostFrom, lostTo } = fields;
  const lost = isSequence(lostFrom) && isSequence(lostTo) ? { lost: { from: lostFrom, to: lostTo } } : {};
  return { sequence: Number(sequence), time: String(time), ...lost };
}
