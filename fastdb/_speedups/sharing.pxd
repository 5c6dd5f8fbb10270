"""What keeps memory whole where threads share objects, and costs nothing where the GIL does."""


cdef extern from *:
    """
    /* A reference of one's own: another thread may take the value out of the dict. */
    static inline PyObject *
    fastdb_value_of(PyObject *dict, PyObject *key, PyObject *missing)
    {
        PyObject *value;
    #ifdef Py_GIL_DISABLED
        int found = PyDict_GetItemRef(dict, key, &value);
        if (found != 0) {
            return value;
        }
    #else
        value = PyDict_GetItemWithError(dict, key);
        if (value != NULL) {
            Py_INCREF(value);
            return value;
        }
        if (PyErr_Occurred()) {
            return NULL;
        }
    #endif
        Py_INCREF(missing);
        return missing;
    }

    /* A dict that no other thread changes meanwhile. */
    static inline PyObject *
    fastdb_unchanging(PyObject *dict)
    {
    #ifdef Py_GIL_DISABLED
        return PyDict_Copy(dict);
    #else
        Py_INCREF(dict);
        return dict;
    #endif
    }
    """
    object value_of "fastdb_value_of"(dict mapping, object key, object missing)
    dict unchanging "fastdb_unchanging"(dict mapping)
