// Writes text into bytes by Node's own call behind `buffer.write`. `write` parses its arguments each time, which costs
// as much as the rest of a short write (measured). Node does not document that call, so it is tried once at the start.

type Write = (this: Buffer, text: string, at: number) => number;

const inner: unknown = Reflect.get(Buffer.prototype, 'latin1Write');
const isAsExpected = typeof inner === 'function' && works(inner as Write);

/** Writes one byte for each character, the low one. There must be room. Returns the number of bytes. */
export const writeLatin1: (bytes: Buffer, text: string, at: number) => number = isAsExpected
  ? (bytes, text, at) => (inner as Write).call(bytes, text, at)
  : (bytes, text, at) => bytes.write(text, at, 'latin1');

/** True if it writes characters of one byte where it is told, nothing else, and returns how many. */
function works(write: Write): boolean {
  try {
    const bytes = Buffer.alloc(6, 0x2e);
    return write.call(bytes, 'a\u00e9\u0000', 2) === 3 && bytes.toString('latin1') === '..a\u00e9\u0000.';
  } catch {
    return false;
  }
}
