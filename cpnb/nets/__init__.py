"""The networks that ship or can be loaded: CharNet, AlexNet, SqueezeNet, CIFAR's ResNets, and
weights as files.

Knows architectures, and nothing of training. Start reading at `charnet`, the paper's network.
"""
