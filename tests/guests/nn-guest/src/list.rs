// The only list of cases. The guest makes a path of each, and `tests/nn_contract.rs` a test. A case that one side lacks
// does not compile there. A case that only one side has is dead code, which neither allows.
macro_rules! for_each_case {
    ($macro:ident) => {
        $macro! {
            every_call_answers
            every_type_and_shape_reads_back
            a_graph_dropped_before_its_context
            a_context_dropped_before_its_outputs
            an_error_outlives_what_raised_it
            many_graphs_and_contexts_of_one_model
            shapes_that_lie
            names_that_are_wrong
            hostile_model_names
            nothing_is_loaded_from_bytes
            computes_again_after_an_error
            computes_ten_thousand_times
            outputs_too_large
            hoards
            leaks_a_little
            one_tensor_passed_twice
            a_dropped_handle
            a_made_up_handle
            waits_for_a_slow_model
            waits_no_longer_than_it_says
            runs_in_the_shadow
            every_element_type_reads_back
            every_element_type_computes
            elements_that_lie
            a_type_that_wasi_nn_lacks
            rows_that_were_put_together
            crossing
        }
    };
}
