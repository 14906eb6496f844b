"A Slurm of our own for tests: controller, one node with two processors, in a temporary folder"
import ctypes, getpass, os, signal, socket, subprocess, time
from contextlib import ExitStack, contextmanager
from shutil import which

PROGRAMS = ('munged','slurmctld','slurmd','sbatch','srun','squeue')
SBIN = '/usr/sbin:/usr/local/sbin'

def missing():
    "Programs that are not installed"
    return [p for p in PROGRAMS if not which(p, path=f'{os.environ["PATH"]}:{SBIN}')]

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

CONF = '''ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={d}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=3
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
StateSaveLocation={d}/state
SlurmdSpoolDir={d}/spool
SlurmctldPidFile={d}/slurmctld.pid
SlurmdPidFile={d}/slurmd.pid
SlurmctldLogFile={d}/slurmctld.log
SlurmdLogFile={d}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=short Nodes={host} Default=YES MaxTime=60 State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
'''

def die_with_parent(): ctypes.CDLL(None).prctl(1, signal.SIGTERM) # PR_SET_PDEATHSIG

@contextmanager
def daemon(*words, env):
    "A program in the foreground that does not outlive the block, nor this process"
    quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    p = subprocess.Popen([str(w) for w in words], env=env, preexec_fn=die_with_parent, **quiet)
    try: yield p
    finally:
        p.terminate()
        try: p.wait(10)
        except subprocess.TimeoutExpired: p.kill(); p.wait()

def wait_for(test, what, seconds=30):
    "Wait until `test` returns something, and return it"
    end = time.monotonic()+seconds
    while time.monotonic()<end:
        found = test()
        if found: return found
        time.sleep(.1)
    raise TimeoutError(what() if callable(what) else what)

def slurm(*words, env):
    "What a command of Slurm prints"
    return subprocess.run([str(w) for w in words], env=env, capture_output=True, text=True).stdout

def end_jobs(env):
    "Cancel all jobs, and wait until their processes are gone"
    me = getpass.getuser()
    slurm('scancel', '-u', me, env=env)
    def all_gone(): return not slurm('squeue', '-h', '-u', me, env=env).strip()
    try: wait_for(all_gone, 'jobs that do not end', 15)
    except TimeoutError: slurm('scancel', '--signal=KILL', '--full', '-u', me, env=env)

def write_conf(d):
    "Key and configuration, readable for us alone"
    d.chmod(0o755) # munged wants no folder above its socket that others can write to
    for name in ('state','spool'): (d/name).mkdir()
    (d/'munge.key').write_bytes(os.urandom(128))
    (d/'munge.key').chmod(0o400)
    host = socket.gethostname().split('.')[0]
    values = dict(host=host, ctld_port=free_port(), slurmd_port=free_port(), user=getpass.getuser(), d=d)
    (d/'slurm.conf').write_text(CONF.format(**values))
    return host

@contextmanager
def private_slurm(d):
    "Environment variables for a Slurm that lives as long as the block"
    host = write_conf(d)
    env = dict(os.environ, SLURM_CONF=str(d/'slurm.conf'), PATH=f'{os.environ["PATH"]}:{SBIN}')
    files = [f'--{name}={d}/munge{name_in}' for name,name_in in
        (('key-file','.key'), ('socket','.socket'), ('pid-file','d.pid'), ('seed-file','d.seed'), ('log-file','d.log'))]
    def logs(): return '\n'.join(f'{p.name}: {p.read_text()[-1500:]}' for p in d.glob('*.log'))
    with ExitStack() as stack:
        stack.enter_context(daemon('munged', '--foreground', '--force', *files, env=env))
        wait_for((d/'munge.socket').exists, logs)
        stack.enter_context(daemon('slurmctld', '-D', env=env))
        stack.enter_context(daemon('slurmd', '-D', '-N', host, env=env))
        wait_for(lambda: 'idle' in slurm('sinfo', '-h', '-o', '%T', env=env), logs)
        stack.callback(end_jobs, env)
        yield env
