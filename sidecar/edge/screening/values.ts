// The values of a request: each text that an application may read as a parameter, from each part of the request.

import { isUtf8 } from 'node:buffer';
import { type ContentType, isJson, readContentType, urlEncoded } from '../content.ts';
import { readJsonText } from '../json.ts';
import { readMultipart } from '../multipart.ts';
import { maxValues, type Place, type Take } from './finding.ts';
import { readXml } from './xml.ts';

/** Path and query of a target. */
export function takeTarget(target: string, take: Take): void {
  const end = target.indexOf('?');
  const path = end === -1 ? target : target.slice(0, end);
  take('path', '', decodeOnce(path));
  for (const segment of path.split('/')) {
    if (segment.length > 1) take('path', 'segment', decodeOnce(segment));
    // Parameters of a segment (RFC 3986 section 3.3): `/items;id=7`.
    if (segment.includes(';'))
      for (const one of segment.split(';').slice(1))
        take('path', 'segment', decodeOnce(one.slice(one.indexOf('=') + 1)));
  }
  if (end !== -1) takePairs('query', target.slice(end + 1), take);
}

/** `a=1&b=2`. Values of one name are joined too: payloads are split over them, and some frameworks join them. */
export function takePairs(place: Place, text: string, take: Take): void {
  const values = new Map<string, string[]>();
  let count = 0;
  for (const pair of text.split('&')) {
    if (pair === '') continue;
    // The budget of values ends with this one.
    if (count++ > maxValues) return;
    const at = pair.indexOf('=');
    const name = decodePlus(at === -1 ? pair : pair.slice(0, at));
    const value = at === -1 ? '' : decodePlus(pair.slice(at + 1));
    take('name', name, name);
    // Some apps read a name without a value as the value.
    if (at === -1) take(place, '', name);
    else if (value !== '') take(place, name, value);
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

/** The unread part of a body: bytes that are not text, or a text in a charset that is not used on the web. */
export type Unread = 'binary' | 'charset';

/** A body by its type and by its content: apps differ in which of the two they follow. */
export function takeBody(body: Buffer, contentType: string | undefined, take: Take): Unread | undefined {
  if (body.length === 0) return undefined;
  const type = contentType === undefined ? undefined : readContentType(contentType);
  if (type !== undefined && isBinary(type.type) && !looksLikeText(body, type.type)) return 'binary';
  if (type?.type === 'multipart/form-data') {
    const said = takeMultipart(body, type.parameters.get('boundary'), take);
    if (said !== 'broken') return said;
  }
  const texts = readingsOf(body, type);
  if (texts === undefined) return 'charset';
  for (const text of texts) takeText(text, type, take);
  return undefined;
}

const binaryType =
  /^(?:image|audio|video|font)\/(?!svg)|^application\/(?:octet-stream|pdf|zip|gzip|x-protobuf|protobuf|grpc|wasm|cbor|msgpack|x-msgpack|vnd\.(?:ms|openxml))/;

function isBinary(type: string): boolean {
  return binaryType.test(type);
}

/** True for a body that a parser of JSON, XML or forms would accept, whatever its type. */
function looksLikeText(body: Buffer, type: string): boolean {
  if (type === 'application/pdf' && body.toString('latin1', 0, 5) === '%PDF-') return false;
  const start = body.toString('latin1', 0, 4096);
  if (/^[\s\0\xef\xbb\xbf\xfe\xff]{0,100}(?:[{[<]|[^\s\0]{1,200}=)/.test(start)) return true;
  return isUtf8(body) && !/[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]/.test(start);
}

/** One reading of a body. */
function takeText(text: string, type: ContentType | undefined, take: Take): void {
  const first = /^[\s\ufeff\0]*([^\s\ufeff\0]?)/.exec(text.slice(0, 4096))![1]!;
  const name = type?.type ?? '';
  if (name === urlEncoded) takePairs('body', text, take);
  if (first === '<' && (name === urlEncoded || name.endsWith('/xml') || name.endsWith('+xml'))) readXml(text, take);
  else if (first === '{' || first === '[' || isJson(name)) {
    if (!takeJson(text.replace(/^\ufeff/, ''), take)) takeLoose(text, name, take);
  } else if (name !== urlEncoded) takeLoose(text, name, take);
}

/** A text without a form that all parsers agree on: as a whole, and the parts that some of them find in it. */
function takeLoose(text: string, type: string, take: Take): void {
  take('body', '', text);
  if (/^[\s\ufeff]{0,100}[{[]/.test(text) || /json|yaml|graphql/.test(type)) takeStrings(text, take);
  // A form under another type, or under none.
  if (/^[^\s<{[]{0,200}=/.test(text)) takePairs('body', text, take);
}

/** Quoted texts: values of JSON that is broken, has comments, or comes in lines. */
function takeStrings(text: string, take: Take): void {
  for (let at = 0; at < text.length; at++) {
    const quote = text[at]!;
    if (quote !== '"' && quote !== "'") continue;
    let end = at + 1;
    while (end < text.length && text[end] !== quote) end += text[end] === '\\' ? 2 : 1;
    if (end - at > 2) take('body', '', text.slice(at + 1, end).replaceAll(/\\(["'\\/])/g, '$1'));
    at = end;
  }
}

/** Keys by which parsers choose a class: they are evaluated together with their values. */
const classKey = /^(?:@type|\$type|@class|__type)$/;

/** Its names and texts, with the keys that lead to them. False for a text that two parsers read differently. */
function takeJson(text: string, take: Take): boolean {
  const read = readJsonText(text);
  if ('fault' in read) return false;
  const open: { readonly value: unknown; readonly name: string }[] = [{ value: read.value, name: '' }];
  /** The items of a list have the same keys. */
  const known = new Set<string>();
  while (open.length > 0) {
    const { value, name } = open.pop()!;
    if (typeof value === 'string') take('body', name, value);
    else if (Array.isArray(value)) for (const one of value) open.push({ value: one, name });
    else if (typeof value === 'object' && value !== null)
      for (const [key, one] of Object.entries(value)) {
        const path = name === '' ? key : `${name}.${key}`;
        if (!known.has(path)) take('name', path, key === 'prototype' ? path : key);
        known.add(path);
        if (typeof one === 'string' && classKey.test(key)) take('body', path, JSON.stringify({ [key]: one }).slice(1));
        open.push({ value: one, name: path });
      }
  }
  return true;
}

function takeMultipart(body: Buffer, boundary: string | undefined, take: Take): Unread | 'broken' | undefined {
  const parts = readMultipart(body, boundary);
  if (parts === undefined) return 'broken';
  let unread: Unread | undefined;
  for (const { name, fileName, isFile, type, body: part } of parts) {
    take('name', name, name);
    if (fileName !== undefined) take('body', name, fileName);
    // Files are not screened; a text document is not a parameter. Without a name, some apps read a field.
    if (isFile && fileName !== '') continue;
    const said = takeBody(part, type ?? 'text/plain', (place, _, text) => take(place, name, text));
    unread = said === undefined || unread === 'charset' ? unread : said;
  }
  return unread;
}

/** Charsets that contain ASCII unchanged, except for bytes that are the second of a letter. */
const likeAscii = /^(?:utf-?8|us-ascii|ascii|iso-?8859|latin|windows-|cp125|x-?sjis|shift_jis|euc-|gb|big5|koi8)/i;

/**
 * The texts that parsers may see in it: in the declared charset, in the one that its bytes show, and in UTF-8 (or
 * ISO 8859-1, if it is not UTF-8). Undefined for a charset that is not used on the web, such as UTF-7 and EBCDIC.
 */
function readingsOf(bytes: Buffer, type: ContentType | undefined): string[] | undefined {
  const plain = bytes.toString(isUtf8(bytes) ? 'utf8' : 'latin1');
  const texts = [plain];
  const said = type?.parameters.get('charset');
  // Escapes in a form are in the charset as well, whose only default is UTF-8.
  if (said !== undefined && type!.type === urlEncoded) return likeAscii.test(said) ? texts : undefined;
  const declared = plain.includes('<?xml')
    ? /^[^<]{0,10}<\?xml[^>]{0,200}?\sencoding\s{0,9}=\s{0,9}["']([^"']{1,40})/.exec(plain)?.[1]
    : undefined;
  for (const charset of [said, declared]) {
    if (charset === undefined || /^(?:utf-?8|us-ascii)$/i.test(charset)) continue;
    try {
      texts.push(new TextDecoder(charset).decode(bytes));
    } catch {
      return undefined;
    }
  }
  if (bytes.includes(0) || bytes[0] === 0xff || bytes[0] === 0xfe) {
    // UTF-16 begins with a mark, or has a zero in every second byte. Other zeros some readers skip.
    texts.push(bytes.toString('utf16le'), new TextDecoder('utf-16be').decode(bytes), plain.replaceAll('\0', ''));
  }
  return [...new Set(texts)];
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
