// Writes the gateway's refusals for their reader: the operator's page, a problem document, or plain text.

import type { Service } from '../capability.ts';
import { pagesOf, wordDenial } from './error-pages.ts';
import type { ErrorPagesPlan } from './schema.ts';

export const errorPages: Service<ErrorPagesPlan, undefined> = {
  name: 'error-pages',
  guards: false,
  always: true,
  fields: [{ kind: 'gateway.yaml', name: 'errorPages', schema: async () => (await import('./schema.ts')).errorPages }],
  compile(_plans, { files }) {
    const pages = pagesOf(files('errorPages') ?? {});
    return { denial: (exchange, denial) => wordDenial(exchange, denial, pages) };
  },
};
