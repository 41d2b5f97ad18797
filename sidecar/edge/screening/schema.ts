// `RequestScreening`, a kind of our own: which signs of attacks are searched, how they count, and where they are
// expected.

import { z } from 'zod';
import { quantity } from '../../schema/quantity.ts';
import { whyNotLinear } from './crs-rules.ts';
import { type CrsRule, crsRule } from './crs-schema.ts';
import { detectorNames } from './finding.ts';

const detector = z.enum(detectorNames, `a detector is one of ${detectorNames.join(', ')}`);

/** Every exclusion has a reason and an end date, so that a later reader knows why it exists and when it goes. */
const exclusion = z.strictObject({
  detector: detector.optional().describe('The detector. By default all.'),
  rule: z
    .union([z.string().min(1).max(100), z.number().int().positive()], 'a rule is a name from the log: sql-tautology')
    .transform((rule) => (/^\d+$/.test(`${rule}`) ? `crs-${rule}` : `${rule}`))
    .optional()
    .meta({
      description: 'One rule, as the log names it. The number of CRS alone will do.',
      example: 'sql-tautology',
    }),
  in: z.enum(['path', 'query', 'header', 'cookie', 'body']).optional().describe('The part of the request.'),
  field: z.string().min(1).max(256).optional().meta({
    description:
      'The name of a parameter, header or cookie; in JSON the keys joined by dots, without the indexes of lists.',
    example: 'comment.text',
  }),
  path: z
    .string()
    .regex(/^\//, 'must begin with a slash')
    .max(1024)
    .optional()
    .meta({ description: 'Paths whose first segments are these.', example: '/search' }),
  reason: z
    .string('an exclusion needs a reason')
    .trim()
    .min(1, 'an exclusion needs a reason')
    .max(500)
    .meta({ description: 'Why the exclusion exists.', example: 'the editor sends SQL' }),
  until: z.iso
    .date('an exclusion needs its last day, such as 2027-01-31')
    .meta({ description: 'Its last day, in UTC.', example: '2027-01-31' }),
});

export const requestScreening = z
  .strictObject({
    // Detect, since ordinary requests differ from app to app.
    mode: z.enum(['Detect', 'Block']).default('Detect').describe('`Detect` only logs and counts; `Block` refuses.'),
    paranoiaLevel: z
      .number()
      .int()
      .min(1)
      .max(4)
      .default(1)
      .describe('As in OWASP CRS: 1 has few false alarms, 4 has many.'),
    threshold: z
      .number()
      .int()
      .min(1)
      .max(100)
      .default(5)
      .describe('The score of one detector from which on a request is an attack. As in CRS, 5 is one certain sign.'),
    detectors: z
      .array(detector)
      .min(1)
      .optional()
      .meta({ description: 'The detectors that are used. By default all.', example: ['sql', 'xss'] }),
    bodyLimit: quantity
      .default(2 ** 20)
      .describe(
        'The largest body, also after decompression. `Block` refuses a larger one, and `Detect` does not screen it.',
      ),
    unreadableBodies: z
      .enum(['Accept', 'Refuse'])
      .default('Accept')
      .describe(
        'How `Block` treats bodies that are not text, such as images, and whose type says so. No detector reads them; a body that begins as JSON, XML or a form is read whatever its type.',
      ),
    timeLimitMs: z.number().int().min(1).max(10_000).default(100).meta({
      description: 'CPU time of one request, and again of its body in the thread for large ones.',
      unit: 'milliseconds',
    }),
    exclusions: z.array(exclusion).max(1000).default([]).describe('Where signs of attacks are expected.'),
    rules: z
      .array(crsRule.superRefine(checkExpression))
      .max(2000)
      .default([])
      .describe('Rules of OWASP CRS: the output of `sallyport crs import`.'),
  })
  .describe('Looks for attacks in requests, such as SQL injection and XSS, and logs or refuses them.');

function checkExpression({ operator, argument }: CrsRule, context: z.RefinementCtx): void {
  const why = operator === 'rx' ? whyNotLinear(String(argument)) : undefined;
  if (why === undefined) return;
  const message = `cannot be evaluated in linear time (RE2 syntax): ${why.slice(0, 100)}`;
  context.addIssue({ code: 'custom', path: ['argument'], message });
}

/** The compiled policy: plain data. */
export type ScreeningPlan = Readonly<z.output<typeof requestScreening>>;

/** A missing field does not restrict the exclusion. It ends with the day `until`, in UTC. */
export type Exclusion = ScreeningPlan['exclusions'][number];
