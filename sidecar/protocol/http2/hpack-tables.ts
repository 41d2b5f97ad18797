// The tables of HPACK: RFC 7541 appendix A (static fields) and appendix B (the Huffman code).

/** Index 1 is the first; a value of '' stands for a name alone. */
export const staticFields: readonly (readonly [name: string, value: string])[] = [
  [':authority', ''],
  [':method', 'GET'],
  [':method', 'POST'],
  [':path', '/'],
  [':path', '/index.html'],
  [':scheme', 'http'],
  [':scheme', 'https'],
  [':status', '200'],
  [':status', '204'],
  [':status', '206'],
  [':status', '304'],
  [':status', '400'],
  [':status', '404'],
  [':status', '500'],
  ['accept-charset', ''],
  ['accept-encoding', 'gzip, deflate'],
  ['accept-language', ''],
  ['accept-ranges', ''],
  ['accept', ''],
  ['access-control-allow-origin', ''],
  ['age', ''],
  ['allow', ''],
  ['authorization', ''],
  ['cache-control', ''],
  ['content-disposition', ''],
  ['content-encoding', ''],
  ['content-language', ''],
  ['content-length', ''],
  ['content-location', ''],
  ['content-range', ''],
  ['content-type', ''],
  ['cookie', ''],
  ['date', ''],
  ['etag', ''],
  ['expect', ''],
  ['expires', ''],
  ['from', ''],
  ['host', ''],
  ['if-match', ''],
  ['if-modified-since', ''],
  ['if-none-match', ''],
  ['if-range', ''],
  ['if-unmodified-since', ''],
  ['last-modified', ''],
  ['link', ''],
  ['location', ''],
  ['max-forwards', ''],
  ['proxy-authenticate', ''],
  ['proxy-authorization', ''],
  ['range', ''],
  ['referer', ''],
  ['refresh', ''],
  ['retry-after', ''],
  ['server', ''],
  ['set-cookie', ''],
  ['strict-transport-security', ''],
  ['transfer-encoding', ''],
  ['user-agent', ''],
  ['vary', ''],
  ['via', ''],
  ['www-authenticate', ''],
];

/**
 * The number of bits of each of the 257 symbols, `a` being 5 and `z` 30. The code is canonical: symbols of one length
 * follow each other in order, each code one more than the last. The last symbol ends a string and never occurs in one.
 */
const lengths =
  'isxxxxxxxtzxxzxxxxxxxxzxxxxxxxxxbffhibdgffdgdbbbaaabbbbbbbcdkbhfibccccccccccccccccccccccdcdioijbkabababbbaccbbbabcbaabccccck' +
  'gjixprpprrrsrssssststtrstssssqrsrsstrqprrssqsrrtqrssqqrqsrssprrrsrrsvvporsruvvvwwvtuoqvwwvwtqqvvxwwwptpqrqqsrruuttvsvwvvwwww' +
  'wxwwwwwvz';

const lengthOf = (symbol: number): number => lengths.charCodeAt(symbol) - 92;

/** Nodes of the code's tree, two to a row: a child's row, or -1 - symbol at a leaf; 0 for no child. */
export const huffmanTree: Int16Array = buildTree();

function buildTree(): Int16Array {
  const symbols = Array.from({ length: 257 }, (_, symbol) => symbol).toSorted(
    (a, b) => lengthOf(a) - lengthOf(b) || a - b,
  );
  const tree = new Int16Array(2 * 512);
  let rows = 1;
  let code = 0;
  let bits = 0;
  for (const symbol of symbols) {
    code *= 2 ** (lengthOf(symbol) - bits);
    bits = lengthOf(symbol);
    let row = 0;
    for (let bit = bits - 1; bit > 0; bit--) {
      const at = row * 2 + (Math.floor(code / 2 ** bit) & 1);
      if (tree[at] === 0) tree[at] = rows++;
      row = tree[at]!;
    }
    tree[row * 2 + (code & 1)] = -1 - symbol;
    code++;
  }
  return tree;
}
