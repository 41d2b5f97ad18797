// multipart/form-data (RFC 7578) in a body that is here as a whole. Strict, since the app's reader may be lenient in
// another way: nothing before the first boundary, nothing behind the last, each part ended, each with one name.

/** One part. `body` is a slice of the message. */
export interface FormPart {
  readonly name: string;
  /** True if it has a file name. */
  readonly isFile: boolean;
  /** The file's name; undefined without one, or if it is only there in the extended form. */
  readonly fileName: string | undefined;
  /** In lower case, with its parameters; undefined if it says none. */
  readonly type: string | undefined;
  readonly body: Buffer;
}

/** No form has more. */
export const maxParts = 1000;

const maxHead = 8 * 1024;
const crlf = Buffer.from('\r\n');
const headEnd = Buffer.from('\r\n\r\n');

/** The parts; undefined if the body is not such a form. Linear in its length. */
export function readMultipart(body: Buffer, boundary: string | undefined): FormPart[] | undefined {
  // RFC 2046 section 5.1.1.
  if (boundary === undefined || !/^[0-9a-zA-Z'()+_,\-./:=? ]{0,69}[0-9a-zA-Z'()+_,\-./:=?]$/.test(boundary))
    return undefined;
  const first = Buffer.from(`--${boundary}`);
  const next = Buffer.from(`\r\n--${boundary}`);
  if (!body.subarray(0, first.length).equals(first)) return undefined;
  const parts: FormPart[] = [];
  let at = first.length;
  while (!startsWith(body, '--', at)) {
    if (!startsWith(body, '\r\n', at) || parts.length === maxParts) return undefined;
    const from = at + crlf.length;
    const end = body.indexOf(next, from);
    if (end === -1) return undefined;
    const within = body.subarray(from, end);
    // Others take a boundary after a bare line feed, or anywhere, also if more follows on its line (PHP, Django). No
    // sender chooses one that its parts hold.
    if (within.includes(first)) return undefined;
    const part = readPart(within);
    if (part === undefined) return undefined;
    parts.push(part);
    at = end + next.length;
  }
  const rest = body.length - at - 2;
  return rest === 0 || (rest === 2 && startsWith(body, '\r\n', at + 2)) ? parts : undefined;
}

function startsWith(body: Buffer, text: string, at: number): boolean {
  return body.toString('latin1', at, at + text.length) === text;
}

function readPart(part: Buffer): FormPart | undefined {
  const end = part.subarray(0, maxHead).indexOf(headEnd);
  if (end === -1) return undefined;
  const head = part.toString('utf8', 0, end);
  const fields = new Map<string, string>();
  for (const line of head.split('\r\n')) {
    const [, name, value] = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*$/.exec(line) ?? [];
    // Folded lines and repeated fields are read differently.
    if (name === undefined || fields.has(name.toLowerCase())) return undefined;
    fields.set(name.toLowerCase(), value!);
  }
  const disposition = readDisposition(fields.get('content-disposition') ?? '');
  if (disposition === undefined) return undefined;
  // RFC 7578 section 4.7: senders should not use it, and readers differ.
  if (
    fields.has('content-transfer-encoding') &&
    !/^(?:7bit|8bit|binary)$/i.test(fields.get('content-transfer-encoding')!)
  )
    return undefined;
  return { ...disposition, type: fields.get('content-type')?.toLowerCase(), body: part.subarray(end + headEnd.length) };
}

const known: ReadonlySet<string> = new Set(['name', 'filename', 'filename*', 'name*']);

/** Section 4.2. A name is quoted, and written once: not also as `name*`. */
function readDisposition(value: string): Pick<FormPart, 'name' | 'isFile' | 'fileName'> | undefined {
  if (!/^form-data[ \t]*;/i.test(value)) return undefined;
  const parameters = new Map<string, string>();
  let rest = value.slice('form-data'.length);
  while (rest !== '') {
    const [whole, key, quoted, plain] =
      /^[ \t]*;[ \t]*([a-zA-Z*]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s";,]+))[ \t]*/.exec(rest) ?? [];
    if (whole === undefined || parameters.has(key!.toLowerCase())) return undefined;
    // curl escapes the quotes of a file's name. A reader that knows no escapes finds nothing more in such a name.
    if (quoted?.includes('\\"') && (key!.toLowerCase() !== 'filename' || /[;=]/.test(quoted) || whole !== rest))
      return undefined;
    // Readers that also take single quotes find others in an unknown one.
    if (!known.has(key!.toLowerCase())) return undefined;
    parameters.set(key!.toLowerCase(), plain ?? quoted!);
    rest = rest.slice(whole.length);
  }
  const name = parameters.get('name');
  // Readers differ in what a backslash escapes.
  if (name === undefined || name.includes('\\') || parameters.has('name*')) return undefined;
  return {
    name: name.replaceAll('%22', '"').replaceAll('%0D', '\r').replaceAll('%0A', '\n'),
    isFile: parameters.has('filename') || parameters.has('filename*'),
    fileName: parameters.get('filename')?.replaceAll('\\"', '"'),
  };
}
