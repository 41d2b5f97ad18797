// A rule of OWASP CRS, in the form in which it is imported.

import { z } from 'zod';
import { detectorNames } from './finding.ts';

/** The supported transformations of CRS, in the order in which a rule applies them. */
export const transformationNames = [
  'none',
  'lowercase',
  'urlDecode',
  'urlDecodeUni',
  'htmlEntityDecode',
  'jsDecode',
  'cssDecode',
  'base64Decode',
  'removeNulls',
  'removeWhitespace',
  'compressWhitespace',
  'replaceComments',
  'removeCommentsChar',
  'normalizePath',
  'normalizePathWin',
  'normalisePath',
  'normalisePathWin',
  'cmdLine',
  'utf8toUnicode',
  'escapeSeqDecode',
  'trim',
] as const;

/** Parts of a request that a rule reads. */
export const crsPlaces = ['path', 'query', 'header', 'cookie', 'body', 'name'] as const;

export const crsRule = z.strictObject({
  id: z.number().int().positive().meta({ description: 'The number that CRS gives it.', example: 942_160 }),
  in: z
    .array(z.enum(crsPlaces))
    .min(1)
    .meta({ description: 'The parts of a request that it reads.', example: ['query', 'body'] }),
  names: z
    .array(z.string())
    .optional()
    .meta({ description: 'Only headers or cookies of this name, in lower case.', example: ['user-agent'] }),
  notNames: z
    .array(z.string())
    .optional()
    .meta({ description: 'Headers, cookies and parameters that it does not read.', example: ['referer'] }),
  operator: z
    .enum(['rx', 'pm', 'contains', 'streq', 'beginsWith', 'endsWith'])
    .describe('How the argument is compared with the text.'),
  argument: z
    .union([z.string().max(65_536), z.array(z.string()).max(10_000)])
    .meta({ description: 'The expression, or the words of `pm`.', example: 'sleep\\(' }),
  transformations: z
    .array(z.enum(transformationNames))
    .default([])
    .meta({ description: 'What is done to the text first.', example: ['urlDecodeUni', 'lowercase'] }),
  score: z
    .union([z.literal(1), z.literal(2), z.literal(3), z.literal(4), z.literal(5)])
    .describe('How much it counts.'),
  level: z.union([z.literal(1), z.literal(2), z.literal(3), z.literal(4)]).describe('Its paranoia level.'),
  detector: z.enum(detectorNames).describe('The detector that it belongs to.'),
});

/** Read and checked, but not compiled: RE2 may still not support an expression of `rx`. */
export type CrsRule = Readonly<z.output<typeof crsRule>>;
