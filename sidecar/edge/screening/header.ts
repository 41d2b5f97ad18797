// Injection into headers and logs: a line break, and a header or a response behind it; control characters of terminals.

import { type Detect, signsOf } from './finding.ts';

const signs = signsOf('header', {
  field: [5],
  'line-break': [3],
  mail: [5],
  response: [5],
  control: [5],
  'log-line': [4],
});

const field =
  /[\r\n\u2028\u2029\u0085\u560a\u560d][\s]{0,9}(?:set-cookie2?|location|content-(?:length|type|disposition|encoding|security-policy)|transfer-encoding|refresh|x-[a-z-]{2,40}|access-control-[a-z-]{3,40}|status|connection|cache-control|host|link|authorization|cookie|referer|user-agent|last-modified|vary|etag|server|via|www-authenticate|forwarded)[ \t]{0,4}:/i;
const always =
  /[\r\n][\s]{0,9}(?:set-cookie|transfer-encoding|content-length|x-forwarded-\w{2,10}|x-xss-protection|access-control-allow-origin)[ \t]{0,4}:/i;

export const detectHeader: Detect = function detectHeader(text, report, place) {
  if (!/[\r\n\0\x1b\u2028\u2029\u0085\u560a\u560d]/.test(text)) return;
  const isBody = place === 'body';
  if (isBody ? always.test(text) && !/\n[^\n]{0,200}\n[^\n]{0,200}\n[^\n]{0,200}\n/.test(text) : field.test(text))
    report(signs.field);
  if (
    /[\r\n][\s]{0,9}HTTP\/\d(?:\.\d)?[ \t]{1,4}\d{3}\b|[\r\n](?:GET|POST|PUT|DELETE|HEAD) \S{1,200} HTTP\/\d/.test(text)
  )
    report(signs.response);
  if (
    /[\r\n]\s{0,4}(?:bcc|cc|to|from|reply-to|subject|mime-version|content-type)\s{0,4}:[^\n]{0,200}(?:@|multipart|text\/)/i.test(
      text,
    ) &&
    (!isBody || /^[^\r\n]{0,120}[\r\n]{1,4}(?:bcc|cc|to)\s{0,4}:/i.test(text))
  )
    report(signs.mail);
  if (
    !isBody &&
    place !== 'name' &&
    /[\r\n]\s{0,9}(?:\[?\d{4}-\d\d-\d\d|\[?(?:info|warn|warning|error|debug|notice|fatal|critical)\b|\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3} - |\w{3} +\d{1,2} \d\d:\d\d)/i.test(
      text,
    )
  )
    report(signs['log-line']);
  if ((place === 'header' || place === 'cookie' || place === 'path') && /[\r\n]/.test(text))
    report(signs['line-break']);
  // Sequences that a terminal obeys (ECMA-48).
  if (/\x1b[[\]P^_]/.test(text)) report(signs.control);
};
