"""From requests to tokens: scheduler, block pool, runner, sampler. Policy here, arithmetic in `kernels`."""
