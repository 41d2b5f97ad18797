// Loaded into a proxy before its own code: answers its parent how many bytes the heap of the main thread has allocated since
// the last question. Node 24 has no counter for it; it is what each collection found more than the one before had left, by
// V8's own figures. A process that is probed is not measured for anything else, since the profiler costs some CPU time.

import { GCProfiler, getHeapStatistics } from 'node:v8';
import { isMainThread } from 'node:worker_threads';

const used = (): number => getHeapStatistics().used_heap_size;

if (isMainThread && process.send !== undefined) {
  let profiler = new GCProfiler();
  let before = used();
  profiler.start();
  process.on('message', () => {
    const now = used();
    const { statistics } = profiler.stop();
    profiler = new GCProfiler();
    profiler.start();
    let bytes = 0;
    for (const { beforeGC, afterGC } of statistics) {
      bytes += beforeGC.heapStatistics.usedHeapSize - before;
      before = afterGC.heapStatistics.usedHeapSize;
    }
    bytes += now - before;
    before = used();
    process.send!(bytes);
  });
  // The channel alone keeps no proxy alive.
  process.channel!.unref();
}
