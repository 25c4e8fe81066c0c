"""Recurrent cells over whole sequences; each is one node of the graph, with hand-written back-propagation through time.

lstm.py, gru.py, rnn.py, bn_lstm.py   one cell each: equations, one step forward, one step back
sequence.py                           the loop over time, forward and backward
cells.py                              the readable reference of each step, differentiated by the tape
"""
