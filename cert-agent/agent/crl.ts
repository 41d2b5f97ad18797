// Keeps crl.pem fresh, for other software on this machine (nginx, HAProxy, OpenSSL): our sidecars use the deny list. It
// asks the CA when the deny list has changed, and now and then, since a CRL also ends by itself.

import type { Clock } from '../base/clock.ts';
import { asSallyportError, SallyportError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { CaClient } from '../fetch.ts';
import { readPemBlocks } from '../identity/bundle.ts';
import { openCertificate } from '../identity/certificate.ts';
import { type Crl, formatCrlPem, parseCrls, verifyCrl } from '../identity/crl.ts';
import type { Identity } from '../identity/identity.ts';
import { type Issuer, readIssuer } from '../identity/issuer.ts';
import { fingerprintOf } from '../identity/verify.ts';
import { Failures } from './failures.ts';
import { type Keep, trustOf } from './keep.ts';
import type { Random } from './schedule.ts';

/** What the refresh uses. The caller owns and closes all of it. */
export interface CrlRefreshOptions {
  readonly client: CaClient;
  readonly keep: Keep;
  readonly log: Log;
  readonly clock: Clock;
  readonly random: Random;
}

/** A new issuer has a list of its own, which changes no deny list. */
const pollMs = 60_000;
/** A large list should not go to all agents in the same moment. */
const spreadMs = 1000;
/** An older CA has none. */
const absentMs = 600_000;
const firstRetryMs = 5000;
const longestRetryMs = 300_000;

/** It has no timer: the rotation calls `tick`. */
export class CrlRefresh {
  readonly #options: CrlRefreshOptions;
  readonly #failures = new Failures();
  #due = 0;
  #etag: string | undefined;
  /** What the lists were fetched for. */
  #seen: string | undefined;
  #running: Promise<void> | undefined;
  #stopped = false;

  constructor(options: CrlRefreshOptions) {
    this.#options = options;
  }

  /** Fetches if that is due, in the background. Called at each tick of the rotation; never throws. */
  tick(): void {
    const { keep, clock, random } = this.#options;
    const held = keep.held();
    if (this.#stopped || this.#running !== undefined || held === undefined || keep.unsure() !== undefined) return;
    const now = clock.now();
    const seen = stateOf(held);
    if (this.#seen !== seen) {
      if (this.#seen !== undefined) this.#due = Math.min(this.#due, now + random() * spreadMs);
      this.#seen = seen;
    }
    // After a jump of the clock, a time far ahead means nothing.
    if (now < this.#due && this.#due <= now + absentMs) return;
    this.#running = this.#fetch(held)
      .catch((error: unknown) => this.#failed(error))
      .finally(() => {
        this.#running = undefined;
      });
  }

  /** Fetches no more. Resolves when none is in flight. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  async #fetch(held: Identity): Promise<void> {
    const { client, keep, clock, random, log } = this.#options;
    const news = await client.fetchCrl(trustOf(held), this.#etag);
    if (this.#stopped) return;
    const now = clock.now();
    if (typeof news !== 'string') {
      const crls = readVerified(news.text, held, now);
      this.#refuseOlder(crls, now);
      const text = crls.map((one) => formatCrlPem(one.der)).join('');
      if (text !== keep.crl()) {
        keep.commitCrl(text);
        const [first] = crls;
        const about = { code: 'crl_refreshed', number: String(first?.number), entries: first?.serials.size };
        log.info(about, 'received a new CRL from the CA');
      }
      this.#etag = news.etag;
    }
    this.#due = now + (news === 'absent' ? absentMs : pollMs * (0.75 + random() / 4));
    this.#failures.clear();
  }

  /** A list that a thief of an older response sends must not undo a revocation, while the newer one holds. */
  #refuseOlder(fresh: readonly Crl[], now: number): void {
    const text = this.#options.keep.crl();
    if (text === undefined) return;
    for (const held of parseOrNone(text)) {
      const same = fresh.find((one) => isSameIssuer(one, held));
      if (same?.number === undefined || held.number === undefined || now > held.nextUpdate) continue;
      if (same.number < held.number)
        throw new SallyportError(
          'crl_untrusted',
          `the CA's CRL has number ${same.number}, older than our ${held.number}`,
        );
    }
  }

  #failed(error: unknown): void {
    if (this.#stopped) return;
    const { clock, random, log } = this.#options;
    const known = asSallyportError(error, 'internal', 'the CRL cannot be used');
    this.#failures.add(known, clock.now());
    const delay = Math.min(longestRetryMs, firstRetryMs * 2 ** (this.#failures.inARow - 1));
    this.#due = clock.now() + delay * (0.75 + random() / 4);
    log[this.#failures.level(known.message, 'warn')](
      { code: known.code, hint: known.hint },
      `cannot refresh the CRL: ${known.message}`,
    );
  }
}

/**
 * What changes the lists of a CA: a revocation, a root, and a new issuer, which our own SVID may be the first to show.
 */
function stateOf({ denied, bundles, svid }: Identity): string {
  const roots = bundles.get(svid.id.trustDomain)?.sequence;
  return `${denied.sequence} ${roots} ${fingerprintOf(svid.chain[1] ?? Buffer.alloc(0))}`;
}

/** Lists and certificates in one response. A CA has two issuers, two roots and a cross certificate at most. */
const maxBlocks = 32;

/**
 * The lists of a response that a CA of ours has signed: at least one. The others are left out, such as that of a root
 * that we do not trust yet: software that verifies by the file refuses what needs them. @throws SallyportError as
 * verifyCrl.
 */
function readVerified(text: string, held: Identity, now: number): Crl[] {
  const source = "the CA's CRL";
  const crls = parseCrls(Buffer.from(text), source);
  const issuers = issuersIn(text, held);
  const refusals: unknown[] = [];
  const verified = crls.slice(0, maxBlocks).filter((crl) => {
    try {
      return verifyCrl(crl, issuers, now, source) !== undefined;
    } catch (error) {
      refusals.push(error);
      return false;
    }
  });
  if (verified.length === 0) throw refusals[0];
  return verified;
}

/** Our roots, the issuers of our own SVID, and those in the response that one of these has certified. */
function issuersIn(text: string, { svid, bundles }: Identity): Issuer[] {
  const trusted = [...svid.chain.slice(1), ...[...bundles.values()].flatMap((one) => one.roots)].map((one) =>
    openCertificate(one),
  );
  const shown = readPemBlocks(text, "the CA's CRL")
    .slice(0, maxBlocks)
    .map((one) => openCertificate(one));
  // Twice: a cross certificate may come after what it makes acceptable.
  for (const one of [...shown, ...shown]) {
    const isNew = one.ca && !trusted.some((other) => other.raw.equals(one.raw));
    if (isNew && trusted.some((other) => one.checkIssued(other) && one.verify(other.publicKey))) trusted.push(one);
  }
  return trusted.map((one) => readIssuer(one.raw));
}

function isSameIssuer(a: Crl, b: Crl): boolean {
  if (!a.issuer.equals(b.issuer)) return false;
  return a.issuerKeyId === undefined || b.issuerKeyId === undefined || a.issuerKeyId.equals(b.issuerKeyId);
}

function parseOrNone(text: string): Crl[] {
  try {
    return parseCrls(Buffer.from(text), 'crl.pem');
  } catch {
    // It was damaged on disk: the next one replaces it.
    return [];
  }
}
