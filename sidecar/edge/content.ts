// What a body is by its fields, and the body without its coding.

import { promisify } from 'node:util';
import zlib from 'node:zlib';
import type { Code } from '../../cert-agent/base/errors.ts';

/** A Content-Type (RFC 9110 section 8.3), in lower case except values of parameters. */
export interface ContentType {
  /** `application/json`. */
  readonly type: string;
  readonly parameters: ReadonlyMap<string, string>;
}

const token = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
const typePattern = new RegExp(`^(${token}/${token})[ \\t]*`);
const parameterPattern = new RegExp(`^;[ \\t]*(?:(${token})=(?:(${token})|"([^"\\\\]*)")[ \\t]*)?`);

/**
 * Undefined if it is not one media type, or has parameters that readers take differently: one twice, one in the form of
 * RFC 8187 (`boundary*`, `boundary*0`), escapes in quotes. Several fields are joined by commas, and are refused here.
 * @param isOfPart of a part of a form: another parameter than a charset says nothing there, in any form (`name*`)
 */
export function readContentType(value: string, isOfPart = false): ContentType | undefined {
  const text = value.trim();
  const [whole, type] = typePattern.exec(text) ?? [];
  if (whole === undefined || text.length > 1024) return undefined;
  const parameters = new Map<string, string>();
  for (let rest = text.slice(whole.length); rest !== ''; ) {
    const [part, name, plain, quoted] = parameterPattern.exec(rest) ?? [];
    if (part === undefined) return undefined;
    rest = rest.slice(part.length);
    if (name === undefined) continue;
    const key = name.toLowerCase();
    if (parameters.has(key) || (key.includes('*') && !(isOfPart && !/^(?:charset|boundary)\*/.test(key))))
      return undefined;
    parameters.set(key, plain ?? quoted!);
  }
  return { type: type!.toLowerCase(), parameters };
}

/** True for JSON (RFC 8259 section 11) and types that are written in it (RFC 6839 section 3.1). */
export function isJson(type: string): boolean {
  return type === 'application/json' || type === 'text/json' || /^[^/]+\/[^/]+\+json$/.test(type);
}

export const urlEncoded = 'application/x-www-form-urlencoded';
export const multipart = 'multipart/form-data';

/** True for types whose bodies are compared and that are not JSON. Readers find fields in bytes around them. */
export function isLoose(type: string): boolean {
  return type === urlEncoded || type === multipart || (type.startsWith('text/') && !isJson(type));
}

/** The boundary of a multipart type; undefined if it has none, or any parameter but a charset beside it. */
export function boundaryOf({ parameters }: ContentType): string | undefined {
  // Some readers search the field for the word `boundary`.
  for (const name of parameters.keys()) if (name !== 'boundary' && name !== 'charset') return undefined;
  return parameters.get('boundary');
}

/** True unless it says that its text is not UTF-8. */
export function isInUtf8({ parameters }: ContentType): boolean {
  const charset = parameters.get('charset');
  return charset === undefined || /^utf-?8$/i.test(charset);
}

/** True if its charset has ASCII in it, a byte for each character: bytes of ASCII are the same text in UTF-8. */
export function isOnAscii({ parameters }: ContentType): boolean {
  return /^(?:us-ascii|ascii|latin1|iso-8859-\d{1,2}|windows-125\d)$/i.test(parameters.get('charset') ?? '');
}

type Decode = (body: Buffer, options: { maxOutputLength: number; info: true }) => Promise<Decoded>;
interface Decoded {
  readonly buffer: Buffer;
  readonly engine: { readonly bytesWritten: number };
}

/** In threads of their own: decoding does not block the event loop. */
const decoders: Readonly<Record<string, Decode>> = {
  gzip: promisify(zlib.gunzip) as unknown as Decode,
  'x-gzip': promisify(zlib.gunzip) as unknown as Decode,
  deflate: promisify(zlib.inflate) as unknown as Decode,
  br: promisify(zlib.brotliDecompress) as unknown as Decode,
  zstd: promisify(zlib.zstdDecompress) as unknown as Decode,
};

/** True if a body with this Content-Encoding is not coded. */
export function isPlain(coding: string | undefined): boolean {
  return coding === undefined || coding.trim() === '' || coding.trim().toLowerCase() === 'identity';
}

/**
 * The body without its Content-Encoding, of at most `limit` bytes. One coding is accepted: more than one has no use
 * but to explode.
 */
export async function decodeBody(body: Buffer, coding: string, limit: number): Promise<Buffer | Code> {
  const decode = decoders[coding.trim().toLowerCase()];
  if (decode === undefined) return 'content_encoding_unsupported';
  try {
    const { buffer, engine } = await decode(body, { maxOutputLength: limit, info: true });
    // What follows the end would be ignored here, and not everywhere.
    return engine.bytesWritten === body.length ? buffer : 'content_encoding_invalid';
  } catch (error) {
    return (error as { readonly code?: string }).code === 'ERR_BUFFER_TOO_LARGE'
      ? 'body_too_large'
      : 'content_encoding_invalid';
  }
}
