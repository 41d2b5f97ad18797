// The values of a request: what an application may read as a parameter, from each part of it.

import { isUtf8 } from 'node:buffer';
import { isInUtf8, isJson, readContentType } from '../content.ts';
import { readJson } from '../json.ts';
import { readMultipart } from '../multipart.ts';
import type { Place, Take } from './finding.ts';
import { readXml } from './xml.ts';

/** More names and texts than requests have; the time ends earlier in most cases. */
export const maxValues = 50_000;

/** Path and query of a target. */
export function takeTarget(target: string, take: Take): void {
  const end = target.indexOf('?');
  const path = end === -1 ? target : target.slice(0, end);
  take('path', '', decodeOnce(path));
  for (const segment of path.split('/')) if (segment.length > 1) take('path', 'segment', decodeOnce(segment));
  if (end !== -1) takePairs('query', target.slice(end + 1), take);
}

/** `a=1&b=2`. Values of one name are joined too: payloads are split over them, and some frameworks join them. */
export function takePairs(place: Place, text: string, take: Take): void {
  const values = new Map<string, string[]>();
  for (const pair of text.split('&')) {
    if (pair === '') continue;
    const at = pair.indexOf('=');
    const name = decodePlus(at === -1 ? pair : pair.slice(0, at));
    const value = at === -1 ? '' : decodePlus(pair.slice(at + 1));
    take('name', name, name);
    if (value !== '') take(place, name, value);
    const known = values.get(name);
    if (known === undefined) values.set(name, [value]);
    else known.push(value);
  }
  for (const [name, all] of values)
    if (all.length > 1) {
      take(place, name, all.join(','));
      take(place, name, all.join(''));
    }
}

/** `a=1; b=2`. */
export function takeCookies(text: string, take: Take): void {
  for (const part of text.split(';')) {
    const at = part.indexOf('=');
    const name = (at === -1 ? '' : part.slice(0, at)).trim();
    const value = part.slice(at + 1).trim();
    if (name !== '') take('name', name, decodeOnce(name));
    if (value !== '') take('cookie', name, decodeOnce(value.replace(/^"(.*)"$/, '$1')));
  }
}

/** A body by its type. What is not text is passed over: false. */
export function takeBody(body: Buffer, contentType: string | undefined, take: Take): boolean {
  if (body.length === 0) return true;
  const type = contentType === undefined ? undefined : readContentType(contentType);
  const plain = (): boolean => {
    const text = textOf(body, type !== undefined && !isInUtf8(type) ? type.parameters.get('charset') : undefined);
    if (text === undefined) return false;
    take('body', '', text);
    return true;
  };
  // A type that nobody can read is read as anything.
  if (type === undefined) return plain();
  if (isJson(type.type)) return takeJson(body, take) || plain();
  if (type.type === 'application/x-www-form-urlencoded') {
    takePairs('body', textOf(body, undefined) ?? body.toString('latin1'), take);
    return true;
  }
  if (type.type === 'multipart/form-data') return takeMultipart(body, type.parameters.get('boundary'), take) || plain();
  if (type.type.endsWith('/xml') || type.type.endsWith('+xml')) {
    const text = textOf(body, type.parameters.get('charset'));
    if (text !== undefined) readXml(text, take);
    return text !== undefined;
  }
  if (
    /^(?:image|audio|video|font)\/(?!svg)|^application\/(?:octet-stream|pdf|zip|gzip|x-protobuf|protobuf|grpc|wasm|cbor|msgpack|vnd\.(?:ms|openxml))/.test(
      type.type,
    )
  )
    return false;
  return plain();
}

/** Its names and texts, with the keys that lead to them. Text that two readers read differently is taken whole too. */
function takeJson(body: Buffer, take: Take): boolean {
  const read = readJson(body);
  if ('fault' in read) return false;
  const open: { readonly value: unknown; readonly name: string }[] = [{ value: read.value, name: '' }];
  while (open.length > 0) {
    const { value, name } = open.pop()!;
    if (typeof value === 'string') take('body', name, value);
    else if (Array.isArray(value)) for (const one of value) open.push({ value: one, name });
    else if (typeof value === 'object' && value !== null)
      for (const [key, one] of Object.entries(value)) {
        const path = name === '' ? key : `${name}.${key}`;
        take('name', path, key);
        open.push({ value: one, name: path });
      }
  }
  return true;
}

function takeMultipart(body: Buffer, boundary: string | undefined, take: Take): boolean {
  const parts = readMultipart(body, boundary);
  if (parts === undefined) return false;
  for (const { name, fileName, isFile, type, body: part } of parts) {
    take('name', name, name);
    if (fileName !== undefined) take('body', name, fileName);
    // Files are what they are; a document of text is not a parameter.
    if (isFile) continue;
    if (type !== undefined && type !== 'text/plain') takeBody(part, type, (place, _, text) => take(place, name, text));
    else take('body', name, textOf(part, undefined) ?? part.toString('latin1'));
  }
  return true;
}

/** Undefined for bytes that are no text. */
function textOf(bytes: Buffer, charset: string | undefined): string | undefined {
  if (charset !== undefined && !/^utf-?8$/i.test(charset)) {
    try {
      return new TextDecoder(charset).decode(bytes);
    } catch {
      return bytes.toString('latin1');
    }
  }
  // UTF-16 without a charset begins with a mark, or has a zero in every second byte.
  if ((bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes.length > 3 && bytes[1] === 0 && bytes[3] === 0))
    return bytes.toString('utf16le');
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return new TextDecoder('utf-16be').decode(bytes);
  return isUtf8(bytes) ? bytes.toString('utf8') : bytes.toString('latin1');
}

function decodePlus(text: string): string {
  return decodeOnce(text.includes('+') ? text.replaceAll('+', ' ') : text);
}

/** As every reader of URLs does. A text that cannot be decoded stays, and is decoded leniently afterwards. */
function decodeOnce(text: string): string {
  if (!text.includes('%')) return text;
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
