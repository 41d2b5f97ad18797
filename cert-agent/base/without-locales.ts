// Imported before zod, by a process that reads one configuration and ends: 64 of zod's 95 modules are messages in other
// languages, which zod loads whichever part of it is imported. They are a tenth of what such a process costs.

import { registerHooks } from 'node:module';

registerHooks({
  resolve(specifier, context, next) {
    // English is imported by its own name. If another version of zod has no such import, it loads them all.
    const isLocales = specifier === '../locales/index.js' && /\/node_modules\/zod\//.test(context.parentURL ?? '');
    return isLocales ? { url: 'data:text/javascript,', shortCircuit: true } : next(specifier, context);
  },
});
