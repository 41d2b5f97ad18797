// The process that reads the configuration once and ends: see read-apart.ts.

import { asSallyportError } from '../../cert-agent/base/errors.ts';
import { readConfiguration } from './read.ts';
import type { Answer } from './read-apart.ts';

process.send?.(answer(process.argv[2] ?? ''), () => process.disconnect());

function answer(file: string): Answer {
  try {
    return { reading: readConfiguration(file) };
  } catch (error) {
    const { code, message, hint, problems } = asSallyportError(error, 'internal', 'the configuration cannot be read');
    return { code, message, detail: { hint, problems } };
  }
}
