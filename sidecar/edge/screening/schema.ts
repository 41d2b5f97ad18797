// `RequestScreening`, a kind of our own: which signs of attacks are looked for, what they count, and where they are
// expected.

import { z } from 'zod';
import { quantity } from '../../schema/quantity.ts';
import { whyNotLinear } from './crs-rules.ts';
import { type CrsRule, crsRule } from './crs-schema.ts';
import { detectorNames } from './finding.ts';

const detector = z.enum(detectorNames, `a detector is one of ${detectorNames.join(', ')}`);

/** Every exclusion has a reason and an end date, so that a later reader knows why it exists and when it goes. */
const exclusion = z.strictObject({
  /** All detectors without it. */
  detector: detector.optional(),
  /** One rule, as the log names it: `sql-tautology`, `crs-942160`. The number of CRS alone will do. */
  rule: z
    .union([z.string().min(1).max(100), z.number().int().positive()], 'a rule is a name from the log: sql-tautology')
    .transform((rule) => (/^\d+$/.test(`${rule}`) ? `crs-${rule}` : `${rule}`))
    .optional(),
  in: z.enum(['path', 'query', 'header', 'cookie', 'body']).optional(),
  /** The name of a parameter, header or cookie; in JSON the keys joined by dots, without the indexes of lists. */
  field: z.string().min(1).max(256).optional(),
  /** Paths whose first segments are these. */
  path: z.string().regex(/^\//, 'must begin with a slash').max(1024).optional(),
  reason: z.string('an exclusion needs a reason').trim().min(1, 'an exclusion needs a reason').max(500),
  until: z.iso.date('an exclusion needs its last day, such as 2027-01-31'),
});

export const requestScreening = z.strictObject({
  /** Detect only logs and counts. The default, since what is ordinary differs from app to app. */
  mode: z.enum(['Detect', 'Block']).default('Detect'),
  /** As in OWASP CRS: 1 has few false alarms, 4 has many. */
  paranoiaLevel: z.number().int().min(1).max(4).default(1),
  /** The score of one detector from which on a request is an attack. As in CRS, 5 is one certain sign. */
  threshold: z.number().int().min(1).max(100).default(5),
  /** All without it. */
  detectors: z.array(detector).min(1).optional(),
  /** Of a body, also after decompression. */
  bodyLimit: quantity.default(2 ** 20),
  /**
   * What Block does with bodies that are no text, such as images, and whose type says so. They are no form that a
   * detector reads; a body that begins as JSON, XML or a form is read whatever its type says.
   */
  unreadableBodies: z.enum(['Accept', 'Refuse']).default('Accept'),
  /** CPU time of one request, and again of its body in the thread for large ones. */
  timeLimitMs: z.number().int().min(1).max(10_000).default(100),
  exclusions: z.array(exclusion).max(1000).default([]),
  /** What `sallyport crs import` prints. */
  rules: z.array(crsRule.superRefine(checkExpression)).max(2000).default([]),
});

function checkExpression({ operator, argument }: CrsRule, context: z.RefinementCtx): void {
  const why = operator === 'rx' ? whyNotLinear(String(argument)) : undefined;
  if (why === undefined) return;
  const message = `cannot be evaluated in linear time (RE2 syntax): ${why.slice(0, 100)}`;
  context.addIssue({ code: 'custom', path: ['argument'], message });
}

/** What is in force: plain data. */
export type ScreeningPlan = Readonly<z.output<typeof requestScreening>>;

/** Without a part it is about all of them. It ends with the day `until`, in UTC. */
export type Exclusion = ScreeningPlan['exclusions'][number];
