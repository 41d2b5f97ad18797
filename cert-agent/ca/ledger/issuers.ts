// Trust in the issuers of heads. A present root confirms its issuers at once. An earlier root is no longer in
// the bundle; the CA records its roots when it starts and when it rotates one, and a good head that covers such a
// record confirms the roots in it, and so the heads of their issuers.

import { X509Certificate } from 'node:crypto';
import { isIssued, parseCertificates } from './head.ts';

/** Heads of one issuer that no present root confirms. */
interface Waiting {
  /** The first of them. */
  readonly sequences: number[];
  count: number;
  /** The last one that matches its record. */
  matched: number;
}

/** A CA has a few in a decade. A copy with more gets no more memory. */
const mostIssuers = 1000;
const mostRecorded = 100;
const mostSequences = 20;

/** For one run over a copy. Call its methods in the order of the copy. */
export class Issuers {
  readonly #roots: readonly Uint8Array[];
  readonly #known = new Map<string, boolean>();
  readonly #waiting = new Map<string, Waiting>();
  /** Roots by the first record that names them. */
  readonly #recorded = new Map<string, number>();

  constructor(roots: readonly Uint8Array[]) {
    this.#roots = roots;
  }

  /** True if the issuer of a head leads to a present root, by the head's own chain. */
  isPresent(issuer: string): boolean {
    const known = this.#known.get(issuer);
    if (known !== undefined) return known;
    const found = isIssued(issuer, this.#roots);
    if (this.#known.size >= mostIssuers) this.#known.clear();
    this.#known.set(issuer, found);
    return found;
  }

  /** Roots of the CA, named by record `sequence`. */
  note(sequence: number, roots: string): void {
    if (this.#recorded.size < mostRecorded && !this.#recorded.has(roots)) this.#recorded.set(roots, sequence);
  }

  /** A head of an issuer that is not a present one. Returns false if there are too many such issuers. */
  wait(issuer: string, sequence: number): boolean {
    const waiting = this.#waiting.get(issuer) ?? { sequences: [], count: 0, matched: 0 };
    if (waiting.count === 0 && this.#waiting.size >= mostIssuers) return false;
    waiting.count += 1;
    if (waiting.sequences.length < mostSequences) waiting.sequences.push(sequence);
    this.#waiting.set(issuer, waiting);
    return true;
  }

  /** The head of record `sequence` matches. */
  match(issuer: string, sequence: number): void {
    const waiting = this.#waiting.get(issuer);
    if (waiting !== undefined) waiting.matched = Math.max(waiting.matched, sequence);
  }

  /**
   * Call once, at the end: `covered` is the last record that heads of present roots cover. Returns the last one that is
   * covered when earlier roots count too, and the issuers without a root.
   */
  settle(covered: number): { readonly covered: number; readonly unknown: readonly Waiting[] } {
    const left = new Map(this.#waiting);
    let reached = covered;
    for (let found = true; found; ) {
      found = false;
      const texts = [...this.#recorded].filter(([, sequence]) => sequence <= reached).map(([text]) => text);
      const roots = texts.flatMap(readable);
      for (const [issuer, { matched }] of left) {
        if (!isIssued(issuer, roots)) continue;
        left.delete(issuer);
        reached = Math.max(reached, matched);
        found = true;
      }
    }
    return { covered: reached, unknown: [...left.values()] };
  }
}

/** A certificate that cannot be read is ignored, and does not affect the others. */
function readable(text: string): readonly Buffer[] {
  return parseCertificates(text).filter((one) => {
    try {
      return new X509Certificate(one).ca;
    } catch {
      return false;
    }
  });
}
