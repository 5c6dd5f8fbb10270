"""What the other parts of the query cache do with plans."""


cdef class QueryPlan:
    cdef readonly object sql
    cdef readonly object verb
    cdef readonly object kind
    cdef readonly bint returning
    cdef readonly bint implicit_returning
    cdef readonly bint returns_rows
    cdef readonly bint changes_session
    cdef readonly bint implicit_commit
    cdef readonly bint is_expression
    cdef readonly object key_sources
    cdef readonly object _result
    cdef tuple _layout  # the last one, behind its names
    cdef QueryPlan _shared  # the plan of which this is a copy
    cdef object _query  # whose columns the records of a copy are read by

    cpdef object layout(self, tuple names)
    cdef QueryPlan for_columns(self, object result, object query)
