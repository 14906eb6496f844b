"One thread for each process: tests start processes of their own, and threads of several wait for one another"
import os

os.environ.setdefault('OMP_NUM_THREADS', '1')
