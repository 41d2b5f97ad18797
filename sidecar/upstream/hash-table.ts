// Maps equal texts to equal endpoints, and moves few texts when an endpoint comes or goes: Envoy's two ways, a ring of
// points (Karger's consistent hashing) and Maglev's table (Eisenbud et al., NSDI 2016, section 3.4). Pure.

/** Which usable member a text belongs to; undefined if none is usable. */
export interface HashTable {
  /** The index in `names`. Unusable members are passed over, so only their own texts move. */
  find(text: string, mayUse: (member: number) => boolean): number | undefined;
}

/** FNV-1a over 32 bits with MurmurHash3's finish, which spreads texts that differ only in their last letter. */
export function hashText(text: string, seed = 0): number {
  let hash = (0x811c9dc5 ^ seed) >>> 0;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  hash ^= hash >>> 16;
  hash = Math.imul(hash, 0x85ebca6b);
  hash ^= hash >>> 13;
  hash = Math.imul(hash, 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** Sorting more than this would hold requests up. */
const mostPoints = 65_536;

/**
 * A ring with at least `size` points, the same number for each member, and as far as possible independent of the number
 * of members: points added when a member leaves would move texts that it never had. An unusable member is skipped for
 * the next one on the ring, so that only its own texts move.
 */
export function createRing(names: readonly string[], size: number): HashTable {
  const usual = Math.ceil(size / Math.min(4, Math.max(1, names.length)));
  const each = Math.max(1, Math.min(usual, Math.floor(mostPoints / Math.max(1, names.length))));
  const points: { at: number; member: number }[] = [];
  for (const [member, name] of names.entries())
    for (let i = 0; i < each; i++) points.push({ at: hashText(`${name}_${i}`), member });
  // By name if two points collide: every process has the same ring, whatever the order of its names.
  points.sort((a, b) => a.at - b.at || (names[a.member]! < names[b.member]! ? -1 : 1));
  const places = Uint32Array.from(points, ({ at }) => at);
  const members = Uint32Array.from(points, ({ member }) => member);
  return { find: (text, mayUse) => walk(members, firstAtOrAfter(places, hashText(text)), mayUse) };
}

/** A table of `size` entries, a prime, which the members fill in turn, each in its own order. */
export function createMaglev(names: readonly string[], size: number): HashTable {
  const table = new Int32Array(size).fill(-1);
  const sorted = [...names.keys()].toSorted((a, b) => (names[a]! < names[b]! ? -1 : 1));
  const orders = sorted.map((member) => ({
    member,
    offset: hashText(names[member]!, 1) % size,
    skip: (hashText(names[member]!, 2) % (size - 1)) + 1,
    next: 0,
  }));
  let filled = 0;
  while (filled < size && orders.length > 0) {
    for (const one of orders) {
      let at = (one.offset + one.next * one.skip) % size;
      while (table[at] !== -1) at = (one.offset + ++one.next * one.skip) % size;
      one.next++;
      table[at] = one.member;
      if (++filled === size) break;
    }
  }
  return { find: (text, mayUse) => (names.length === 0 ? undefined : walk(table, hashText(text) % size, mayUse)) };
}

function walk(
  members: Uint32Array | Int32Array,
  start: number,
  mayUse: (member: number) => boolean,
): number | undefined {
  for (let i = 0; i < members.length; i++) {
    const member = members[(start + i) % members.length]!;
    if (mayUse(member)) return member;
  }
  return undefined;
}

/** The position of the first point at or after `hash`, round the ring. */
function firstAtOrAfter(places: Uint32Array, hash: number): number {
  let [low, high] = [0, places.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (places[middle]! < hash) low = middle + 1;
    else high = middle;
  }
  return low === places.length ? 0 : low;
}
