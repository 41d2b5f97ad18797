// Bodies under a JSON Schema alone.

import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { type ContentType, isInUtf8, isJson, readContentType } from '../content.ts';
import { readJson } from '../json.ts';
import { remembered } from './exact.ts';
import { type Validator, type Verdict, type Violation, violationsOf } from './violation.ts';

/** Methods whose requests usually have no body (RFC 9110 section 9.3). */
const withoutBody: ReadonlySet<string> = new Set(['GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE']);

export const valid: Verdict = Object.freeze({ violations: [] });

/** A request needs a body unless its method usually has none; each body must be JSON that matches the schema. */
export function checkJsonBody(exchange: Exchange, body: Buffer, validator: Validator): Verdict {
  if (body.length === 0) return withoutBody.has(exchange.method) ? valid : { violations: [missingBody] };
  const said = headerOf(exchange, 'content-type') ?? '';
  const type = readContentType(said);
  if (type === undefined || !isJson(type.type) || !isInUtf8(type)) return wrongType(said, type, ['application/json']);
  return checkJson(body, validator);
}

/** More types are not listed. */
const maxTypes = 8;

/** 415, with the types that are accepted. A field that cannot be read may name one of them: it is none of these. */
export function wrongType(said: string, type: ContentType | undefined, accepted: readonly string[]): Verdict {
  if (said !== '' && (type === undefined || accepted.includes(type.type)))
    return { fault: 'content_type_unsupported', violations: [] };
  const listed = accepted.slice(0, maxTypes).join(', ');
  const detail = `must be ${accepted.length === 1 ? '' : 'one of '}${listed}${accepted.length > maxTypes ? ', ...' : ''}`;
  const at = { in: 'header', name: 'content-type', pointer: '' } as const;
  return { fault: 'content_type_unsupported', violations: [{ ...at, code: 'contentType', detail }] };
}

/** A body that has to be JSON. */
export function checkJson(body: Buffer, validator: Validator): Verdict {
  const read = remembered(readJson(body));
  if ('fault' in read) return { fault: read.fault, violations: [] };
  return { violations: violationsOf(read.value, validator, { in: 'body' }) };
}

export const missingBody: Violation = Object.freeze({
  ...{ in: 'body', pointer: '', code: 'required', detail: 'the request must have a body' },
});
