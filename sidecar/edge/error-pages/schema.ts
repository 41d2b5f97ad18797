// `errorPages` of gateway.yaml: a directory with `404.html`, `5xx.html`.

import { z } from 'zod';

/** The directory's path. */
export const errorPages = z.string().min(1).meta({
  description:
    'Directory with pages that replace the built-in error texts for clients that read HTML: 404.html, 5xx.html.',
  example: 'pages/',
});

/** The directory's path; the pages are read at compilation. */
export type ErrorPagesPlan = z.output<typeof errorPages>;
