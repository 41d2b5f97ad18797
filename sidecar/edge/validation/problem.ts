// A refusal as a problem document (RFC 9457), with the extension `errors` as in its section 3.

import { type Code, codes } from '../../../cert-agent/base/errors.ts';
import type { Verdict, Violation } from './violation.ts';

/** Titles of refusals. Programs compare the stable code; a title is for people. */
const titles: Partial<Readonly<Record<Code, string>>> = {
  request_invalid: 'The request does not match the schema',
  operation_unknown: 'The API has no operation at this path',
  operation_method_unknown: 'The API has no operation for this method',
  content_type_unsupported: 'The Content-Type is not accepted here',
  content_encoding_unsupported: 'The Content-Encoding is not accepted here',
  content_encoding_invalid: 'The body does not match its Content-Encoding',
  body_too_large: 'The body is too large',
  upgrade_unsupported: 'A tunnel cannot be validated',
  json_syntax: 'The body is not JSON',
  json_not_utf8: 'The JSON is not UTF-8',
  json_too_deep: 'The JSON is nested too deeply',
  json_duplicate_key: 'The JSON has an object with a duplicate key',
  json_lone_surrogate: 'The JSON has a string with a lone surrogate',
  json_number_out_of_range: 'A number is out of range',
  form_invalid: 'The form cannot be read',
  validation_too_costly: 'The request takes too long to validate',
};

/** The code of a refusal. */
export function codeOf({ fault }: Verdict): Code {
  return fault ?? 'request_invalid';
}

/** The document, as JSON. */
export function problemOf(verdict: Verdict): Buffer {
  const code = codeOf(verdict);
  const { status } = codes[code];
  return Buffer.from(
    JSON.stringify({
      type: 'about:blank',
      title: titles[code] ?? code,
      status,
      code,
      ...(verdict.violations.length === 0 ? {} : { errors: verdict.violations.map(describe) }),
    }),
  );
}

/** `pointer` is a JSON pointer as a URI fragment (RFC 6901 section 6), as in RFC 9457. */
function describe({ in: part, name, pointer, code, detail }: Violation): object {
  return { in: part, ...(name === undefined ? {} : { name }), pointer: `#${encodeURI(pointer)}`, code, detail };
}
