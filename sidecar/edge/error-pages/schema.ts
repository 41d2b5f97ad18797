// `errorPages` of gateway.yaml: a directory with `404.html`, `5xx.html`.

import { z } from 'zod';

export const errorPages = z.string().min(1);

export type ErrorPagesPlan = z.output<typeof errorPages>;
