// Sizes as Kubernetes writes them.

import { z } from 'zod';

const binary = { Ki: 1024, Mi: 1024 ** 2, Gi: 1024 ** 3 } as const;
const decimal = { k: 1000, M: 1000 ** 2, G: 1000 ** 3 } as const;
const factors: Readonly<Record<string, number>> = { '': 1, ...binary, ...decimal };

/** A Kubernetes quantity of bytes. Sizes that no process can hold are refused, since they limit nothing. */
export const quantity = z
  .union([z.number(), z.string()])
  .transform((written, context) => {
    const [, digits = '', unit = ''] = /^([1-9]\d*)(|[KMG]i|[kMG])$/.exec(String(written)) ?? [];
    const bytes = Number(digits) * (factors[unit] ?? 0);
    if (digits !== '' && Number.isSafeInteger(bytes) && bytes <= 2 ** 31) return bytes;
    context.addIssue({
      code: 'custom',
      message: `'${written}' is not a size up to 2Gi: write 10Mi, 500Ki or a number of bytes`,
    });
    return z.NEVER;
  })
  .meta({ unit: 'bytes', bounds: '1 to 2Gi' });
