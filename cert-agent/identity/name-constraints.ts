// Name constraints of a CA (RFC 5280 section 4.2.1.10): which names its certificates may have. Fails closed: a
// constraint on a kind of name that we cannot compare refuses every certificate with a name of that kind.

import { type DerElement, DerReader } from './der.ts';

/** A GeneralName: its context tag (RFC 5280 section 4.2.1.6) without class bits, and its content. */
export interface Name {
  readonly kind: number;
  readonly value: Buffer;
}

/** Both lists hold at once, and an excluded name wins (RFC 5280 section 4.2.1.10). */
export interface NameConstraints {
  /** For each kind of name that occurs here, only names within one of these. */
  readonly permitted: readonly Name[];
  readonly excluded: readonly Name[];
}

/** Kinds of GeneralName, by context tag. */
export const nameKind = Object.freeze({ email: 1, dns: 2, directory: 4, uri: 6, ip: 7 });

/** Parses the body of a GeneralNames. @throws TypeError. */
export function readNames(names: DerReader): Name[] {
  const found: Name[] = [];
  while (!names.done) found.push(nameOf(names.read()));
  return found;
}

/** Parses the extension. @throws TypeError, also for `minimum` and `maximum`, which RFC 5280 forbids. */
export function readNameConstraints(value: Buffer): NameConstraints {
  const outer = new DerReader(value);
  const body = outer.enter();
  outer.end();
  const permitted = body.readIf(0xa0);
  const excluded = body.readIf(0xa1);
  body.end();
  if (permitted === undefined && excluded === undefined) throw new TypeError('name constraints without a name');
  return { permitted: readSubtrees(permitted), excluded: readSubtrees(excluded) };
}

function readSubtrees(element: DerElement | undefined): Name[] {
  const found: Name[] = [];
  const trees = new DerReader(element?.body ?? Buffer.alloc(0));
  while (!trees.done) {
    const tree = trees.enter();
    found.push(nameOf(tree.read()));
    tree.end();
  }
  return found;
}

function nameOf({ tag, body }: DerElement): Name {
  if ((tag & 0xc0) !== 0x80) throw new TypeError(`tag ${tag} is not a kind of name`);
  return { kind: tag & 0x1f, value: body };
}

/** True if a CA with these constraints may issue a certificate with all `names`. */
export function permitsNames({ permitted, excluded }: NameConstraints, names: readonly Name[]): boolean {
  return names.every((name) => {
    const ofKind = (one: Name): boolean => one.kind === name.kind;
    const kept = permitted.filter(ofKind);
    return (
      // Fails closed: a name that cannot be compared counts as excluded and as not permitted.
      excluded.filter(ofKind).every((tree) => isWithin(name, tree) === false) &&
      (kept.length === 0 || kept.some((tree) => isWithin(name, tree) === true))
    );
  });
}

/** True if `name` is in the subtree; undefined if it cannot be compared. */
function isWithin(name: Name, tree: Name): boolean | undefined {
  switch (name.kind) {
    case nameKind.uri:
      return isUriWithin(textOf(name), textOf(tree));
    case nameKind.dns:
      return isDnsWithin(textOf(name), textOf(tree));
    case nameKind.ip:
      return isIpWithin(name.value, tree.value);
    case nameKind.directory:
      // A name has many encodings (RFC 5280 section 7.1): equal bytes are the same name, different bytes prove nothing.
      return isDirectoryWithin(name.value, tree.value) ? true : undefined;
    default:
      return undefined;
  }
}

function textOf({ value }: Name): string {
  return value.toString('latin1').toLowerCase();
}

/** A host or, with a leading dot, any host below it. */
function isUriWithin(uri: string, host: string): boolean | undefined {
  const found = /^[a-z][a-z0-9+.-]*:\/\/(?:[^/?#@]*@)?([^/?#:@]+)(?::\d*)?(?:[/?#]|$)/.exec(uri)?.[1];
  if (found === undefined) return undefined;
  return host.startsWith('.') ? found.endsWith(host) : found === host;
}

/** A name and everything below it, at label boundaries. An empty name matches all. */
function isDnsWithin(dns: string, base: string): boolean {
  const below = base.replace(/^\./, '');
  return below === '' || dns === below || dns.endsWith(`.${below}`);
}

function isIpWithin(address: Buffer, base: Buffer): boolean | undefined {
  if ((address.length !== 4 && address.length !== 16) || (base.length !== 8 && base.length !== 32)) return undefined;
  if (base.length !== 2 * address.length) return false;
  return address.every((byte, i) => (byte & base[address.length + i]!) === (base[i]! & base[address.length + i]!));
}

/** True if `name` begins with the relative names of `base`. Both are a Name in its explicit tag. */
function isDirectoryWithin(name: Buffer, base: Buffer): boolean {
  try {
    const [inner, outer] = [new DerReader(name).read().body, new DerReader(base).read().body];
    const rest = new DerReader(inner);
    for (const wanted = new DerReader(outer); !wanted.done; )
      if (rest.done || !wanted.read().whole.equals(rest.read().whole)) return false;
    return true;
  } catch {
    return false;
  }
}
