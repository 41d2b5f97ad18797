// `npm run reference`: REFERENCE.md, from the schemas and tables of the source.
import { writeFileSync } from 'node:fs';
import { referencePage } from './sidecar/reference/page.ts';

writeFileSync(new URL('REFERENCE.md', import.meta.url), await referencePage());
