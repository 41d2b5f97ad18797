// What the answers of a gateway carry beside what the backend says.

import type { Configuration } from '../config/watch.ts';
import type { EdgeReplies } from '../exchange/exchange.ts';
import { addFields } from '../exchange/fields.ts';
import { emptyFields } from '../exchange/message.ts';

/** OWASP's list for answers to browsers, where the operator has switched it on; what a backend says itself stays. */
const securityHeaders: EdgeReplies['securityHeaders'] = addFields(emptyFields, [
  ['strict-transport-security', 'max-age=31536000; includeSubDomains'],
  ['x-content-type-options', 'nosniff'],
  ['x-frame-options', 'DENY'],
  ['referrer-policy', 'strict-origin-when-cross-origin'],
  ['cross-origin-opener-policy', 'same-origin'],
  ['permissions-policy', 'camera=(), microphone=(), geolocation=()'],
]);

/** For all rules alike: headers, and the operator's own error pages. */
export function repliesOf({ settings, gateway }: Configuration): EdgeReplies {
  const { securityHeaders: on } = settings.gateway!;
  const errorPages = new Map<number, Buffer>();
  // `5xx.html` sorts behind `503.html`, and one for a single status counts more than one for its class.
  for (const [file, text] of Object.entries(gateway!.errorPages)) {
    const [, first = '', rest = ''] = /^([45])(\d\d|xx)\.html$/.exec(file) ?? [];
    const page = Buffer.from(text);
    const statuses =
      rest === 'xx' ? Array.from({ length: 100 }, (_, i) => Number(first) * 100 + i) : [Number(first + rest)];
    for (const status of first === '' ? [] : statuses)
      if (rest !== 'xx' || !errorPages.has(status)) errorPages.set(status, page);
  }
  return { securityHeaders: on ? securityHeaders : undefined, errorPages };
}
