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
  /** The number that CRS gives it. */
  id: z.number().int().positive(),
  in: z.array(z.enum(crsPlaces)).min(1),
  /** Only headers or cookies of this name, in lower case. */
  names: z.array(z.string()).optional(),
  /** Headers, cookies and parameters that the rule does not read. */
  notNames: z.array(z.string()).optional(),
  operator: z.enum(['rx', 'pm', 'contains', 'streq', 'beginsWith', 'endsWith']),
  argument: z.union([z.string().max(65_536), z.array(z.string()).max(10_000)]),
  transformations: z.array(z.enum(transformationNames)).default([]),
  score: z.union([z.literal(1), z.literal(2), z.literal(3), z.literal(4), z.literal(5)]),
  level: z.union([z.literal(1), z.literal(2), z.literal(3), z.literal(4)]),
  detector: z.enum(detectorNames),
});

/** Read and checked, but not compiled: RE2 may still not support an expression of `rx`. */
export type CrsRule = Readonly<z.output<typeof crsRule>>;
